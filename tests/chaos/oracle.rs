//! What was acknowledged, which restores were asked for, and what follows from both. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

/// One cluster's history as a client saw it. Every secret is written once, under a name of its own.
#[derive(Debug, Default)]
pub struct Oracle {
    /// When each secret's write was begun and acknowledged.
    acknowledged: BTreeMap<String, (DateTime<Utc>, DateTime<Utc>)>,
}

/// A restore that took effect, or that may have.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// Before this moment the backup had not begun: what was acknowledged by then is in it.
    pub backup_began: DateTime<Utc>,
    /// From this moment on the restored state was the only one.
    pub ended: DateTime<Utc>,
}

impl Oracle {
    pub fn acknowledge(&mut self, secret: &str, began: DateTime<Utc>, at: DateTime<Utc>) {
        self.acknowledged.insert(secret.to_owned(), (began, at));
    }

    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    /// The secrets that are missing without an explanation, and how many are explained. A restore explains the loss of
    /// what was not surely in its backup and was begun before the restore had ended.
    pub fn unexplained(&self, there: impl Fn(&str) -> bool, restores: &[Restored]) -> (Vec<String>, usize) {
        let mut lost = Vec::new();
        let mut explained = 0;
        for (secret, (began, acknowledged)) in self.acknowledged.iter().filter(|(secret, _)| !there(secret)) {
            if restores.iter().any(|restore| *acknowledged >= restore.backup_began && *began <= restore.ended) {
                explained += 1;
            } else {
                lost.push(format!("{secret} (acknowledged at {acknowledged})"));
            }
        }
        (lost, explained)
    }
}

#[test]
fn a_restore_explains_what_was_written_between_its_backup_and_its_end_and_nothing_else() {
    let at = |second: i64| DateTime::from_timestamp(second, 0).unwrap();
    let mut oracle = Oracle::default();
    for (name, second) in [("early", 1), ("between", 20), ("during", 30), ("late", 50)] {
        oracle.acknowledge(name, at(second), at(second + 1));
    }
    let restore = Restored { backup_began: at(10), ended: at(40) };
    assert_eq!(oracle.unexplained(|_| true, &[restore]), (vec![], 0));
    let (lost, explained) = oracle.unexplained(|_| false, &[restore]);
    assert_eq!(explained, 2);
    assert!(lost[0].starts_with("early") && lost[1].starts_with("late"), "{lost:?}");
    assert_eq!(oracle.unexplained(|_| false, &[]).0.len(), 4);
}
