//! An even number of members: allowed, and no better than one less. Pure.

/// What to say of it.
pub fn even(replicas: i32) -> Option<String> {
    let bears = |count: i32| (count - 1) / 2;
    (replicas > 0 && replicas % 2 == 0).then(|| {
        format!(
            "spec.replicas {replicas} is an even number: of {replicas} members {} may fail, no more than of {}, and there is one \
             more that can. Of {} members {} may",
            bears(replicas),
            replicas - 1,
            replicas + 1,
            bears(replicas + 1)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_bears_no_more_than_one_less() {
        assert_eq!([1, 3, 5, 9].map(|replicas| even(replicas).is_some()), [false; 4]);
        let four = even(4).unwrap();
        assert!(four.contains("of 4 members 1 may fail, no more than of 3") && four.ends_with("Of 5 members 2 may"));
        assert!(even(2).unwrap().contains("of 2 members 0 may fail, no more than of 1"));
    }
}
