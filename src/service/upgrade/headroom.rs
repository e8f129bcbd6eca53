//! Whether the members' volumes could take what an upgrade may ask of them. Pure.

use crate::service::cluster::validate;

/// A member that fell behind while it was replaced is sent the whole data, and keeps the old copy until the new one is
/// complete (raft's snapshot installation). A snapshot holds no less than what its storage takes.
const COPIES: u64 = 2;

/// Names the volume that is too small for data of this many bytes, with what to do. `claims` are names and capacities as
/// Kubernetes writes them; a capacity that cannot be read says nothing.
pub fn shortage<'a>(data: u64, claims: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let needed = data.saturating_mul(COPIES);
    let small =
        claims.into_iter().find(|(_, capacity)| validate::bytes(capacity).is_some_and(|bytes| bytes < needed))?;
    Some(format!(
        "volume claim {} holds {}, and a member that must be sent the whole data ({data} bytes in the backup) needs \
         {COPIES} times that for a while: raise spec.storage.size within the hour and the upgrade goes on by itself. Later it \
         has failed with nothing touched, and a Retry in spec.requests of the OpenBaoCluster begins it again",
        small.0, small.1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_cannot_hold_the_data_twice_is_named_and_an_unreadable_size_says_nothing() {
        let gib = 1 << 30;
        let claims = [("data-kelp-0", "4Gi"), ("data-kelp-1", "1Gi"), ("data-kelp-2", "?")];
        assert_eq!(shortage(gib / 2, claims), None, "just enough");
        let why = shortage(gib / 2 + 1, claims).unwrap();
        assert!(why.contains("data-kelp-1") && why.contains("1Gi") && why.contains("spec.storage.size"), "{why}");
        assert_eq!(shortage(0, claims), None);
        assert_eq!(shortage(u64::MAX, [("data-kelp-2", "?")]), None);
    }
}
