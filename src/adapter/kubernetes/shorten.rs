//! Names made from names, within what Kubernetes allows.

use sha2::{Digest, Sha256};

/// Kubernetes' limit for label values, and so for names that become labels, such as a Job's.
pub const LIMIT: usize = 63;

/// `<head>-<tail>`, at most [`LIMIT`] characters: a long one gets a digest instead of being cut, so that two long names
/// never become one. The tail is always whole.
pub fn joined(head: &str, tail: &str) -> String {
    let whole = format!("{head}-{tail}");
    if whole.len() <= LIMIT {
        return whole;
    }
    let digest = Sha256::digest(whole.as_bytes());
    let short = digest.iter().take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let tail = format!("-{short:08x}-{tail}");
    let head: String = head.chars().take(LIMIT.saturating_sub(tail.len())).collect();
    format!("{}{tail}", head.trim_end_matches(['-', '.']))
}

/// An operation's name as a label value: itself where it fits. The whole name stands in an annotation beside it.
pub fn operation_label(operation: &str) -> String {
    if operation.len() <= LIMIT { operation.to_owned() } else { joined(operation, "op") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shortened_to_one_that_no_other_name_gets() {
        assert_eq!(joined("kelp", "backup"), "kelp-backup");
        assert_eq!(operation_label("kelp"), "kelp");
        let (one, other) = ("a".repeat(62) + ".b", "a".repeat(62) + ".c");
        for shortened in [joined(&one, "backup"), operation_label(&one)] {
            assert!(shortened.len() <= LIMIT && !shortened.contains(".-"), "{shortened}");
        }
        assert_ne!(joined(&one, "backup"), joined(&other, "backup"));
        assert_ne!(operation_label(&one), operation_label(&other));
        assert_eq!(operation_label(&"a".repeat(LIMIT)), "a".repeat(LIMIT));
    }
}
