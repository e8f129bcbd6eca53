//! The audit trail: one set of keys and values in the log line, in the event's annotations and in the history.
//!
//! The history in the operation's status is the truth, since it is written together with the transition itself. The log
//! line and the event are told after that write, and told again after a restart if it is not certain that they were
//! (`status.announced`): a transition is never missing in one of the three, and a repeated line has the same `seq`.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    adapter::operationlock::held,
    api::operation::{HistoryEntry, OperationKind, OperationPhase, StepState},
};

/// The audit events, by the names that people filter on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AuditEvent {
    /// The lock was taken.
    OperationLockAcquired,
    /// The lock is in other hands, and somebody waits for it.
    OperationLockBlocked,
    /// The lock was taken from somebody.
    OperationLockForceAcquired,
    /// The lock was given back.
    OperationLockReleased,
    /// A backup began.
    BackupStarted,
    /// A backup succeeded.
    BackupCompleted,
    /// A backup failed.
    BackupFailed,
    /// A scheduled backup was left out.
    BackupSkipped,
    /// A restore went from one phase to another.
    RestorePhaseTransition,
    /// A restore succeeded.
    RestoreCompleted,
    /// A restore failed.
    RestoreFailed,
    /// A restore lost its lock.
    RestoreLockLost,
    /// An upgrade went from one phase to another.
    UpgradePhaseTransition,
    /// An upgrade succeeded.
    UpgradeCompleted,
    /// An upgrade failed.
    UpgradeFailed,
    /// A leader was asked to step down.
    StepDown,
    /// A step of a saga went from one state to another.
    SagaStepTransition,
    /// A rollback began.
    RollbackStarted,
    /// A rollback succeeded.
    RollbackCompleted,
    /// A member of a rollout went from one state to another.
    RolloutMemberTransition,
    /// A workflow, a dry run or a restore test went from one phase to another; so did a backup or a rollback in a way
    /// that has no name of its own.
    OperationPhaseTransition,
    /// A request was acted on or refused.
    OperationRequestHandled,
}

impl AuditEvent {
    /// Its name in logs, events and histories.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OperationLockAcquired => "OperationLockAcquired",
            Self::OperationLockBlocked => "OperationLockBlocked",
            Self::OperationLockForceAcquired => "OperationLockForceAcquired",
            Self::OperationLockReleased => "OperationLockReleased",
            Self::BackupStarted => "BackupStarted",
            Self::BackupCompleted => "BackupCompleted",
            Self::BackupFailed => "BackupFailed",
            Self::BackupSkipped => "BackupSkipped",
            Self::RestorePhaseTransition => "RestorePhaseTransition",
            Self::RestoreCompleted => "RestoreCompleted",
            Self::RestoreFailed => "RestoreFailed",
            Self::RestoreLockLost => "RestoreLockLost",
            Self::UpgradePhaseTransition => "UpgradePhaseTransition",
            Self::UpgradeCompleted => "UpgradeCompleted",
            Self::UpgradeFailed => "UpgradeFailed",
            Self::StepDown => "StepDown",
            Self::SagaStepTransition => "SagaStepTransition",
            Self::RollbackStarted => "RollbackStarted",
            Self::RollbackCompleted => "RollbackCompleted",
            Self::RolloutMemberTransition => "RolloutMemberTransition",
            Self::OperationPhaseTransition => "OperationPhaseTransition",
            Self::OperationRequestHandled => "OperationRequestHandled",
        }
    }

    /// The event of an operation that goes from `from` to `to`.
    pub fn of_phase(kind: OperationKind, from: OperationPhase, to: OperationPhase) -> Self {
        use OperationPhase::{Cancelled, ConstraintFailed, Failed, Pending, RolledBack, Running, Succeeded};
        // One that had ended is turned back by another one's success.
        let failed = matches!(to, Failed | ConstraintFailed | RolledBack | Cancelled) && !from.is_terminal();
        match kind {
            OperationKind::Backup if to == Succeeded => Self::BackupCompleted,
            OperationKind::Backup if failed => Self::BackupFailed,
            OperationKind::Backup if (from, to) == (Pending, Running) => Self::BackupStarted,
            OperationKind::Restore if to == Succeeded => Self::RestoreCompleted,
            OperationKind::Restore if failed => Self::RestoreFailed,
            OperationKind::Restore => Self::RestorePhaseTransition,
            OperationKind::Upgrade if to == Succeeded => Self::UpgradeCompleted,
            OperationKind::Upgrade if failed => Self::UpgradeFailed,
            OperationKind::Upgrade => Self::UpgradePhaseTransition,
            OperationKind::Rollback if to == Succeeded => Self::RollbackCompleted,
            OperationKind::Rollback if (from, to) == (Pending, Running) => Self::RollbackStarted,
            OperationKind::Backup
            | OperationKind::Rollback
            | OperationKind::RestoreTest
            | OperationKind::DryRun
            | OperationKind::Workflow => Self::OperationPhaseTransition,
        }
    }

    const WARNINGS: [Self; 5] = [
        Self::OperationLockForceAcquired,
        Self::BackupFailed,
        Self::RestoreFailed,
        Self::RestoreLockLost,
        Self::UpgradeFailed,
    ];

    /// Whether people should look.
    pub fn is_warning(self) -> bool {
        Self::WARNINGS.contains(&self)
    }
}

/// Whether this transition becomes an event too. All do but the beginning of a step: its end follows, and each event is a
/// write to the API server. The history and the log have both.
pub fn is_event(entry: &HistoryEntry) -> bool {
    let begins = (entry.phase_from.as_str(), entry.phase_to.as_str())
        == (StepState::Pending.as_str(), StepState::Running.as_str());
    !(begins && entry.event == AuditEvent::SagaStepTransition.as_str())
}

/// Whether people should look at the event of this name.
pub fn is_warning(event: &str) -> bool {
    AuditEvent::WARNINGS.iter().any(|warning| warning.as_str() == event)
}

/// What is said beside the transition itself. Keys are fixed words of ours; values never hold a secret.
pub type Fields = BTreeMap<&'static str, String>;

/// Adds who holds the lock, if `error` or anything it wraps says that it is held; leaves `fields` alone otherwise.
pub fn add_held_audit_fields(fields: &mut Fields, error: &(dyn std::error::Error + 'static)) {
    if let Some(held) = held(error) {
        fields.insert("held_by_operation", held.operation.to_string());
        fields.insert("held_by_holder", held.holder.clone());
    }
}

/// The longest value in the trail, in characters. A longer one is cut: an event holds 256 KiB of annotations in all.
const LONGEST_VALUE: usize = 512;

/// One transition as a history entry; nothing when nothing changed. `phase_from` and `phase_to` win over fields of the
/// same name. `seq` is set when the entry joins a history.
pub fn transition(event: AuditEvent, from: &str, to: &str, fields: &Fields, at: DateTime<Utc>) -> Option<HistoryEntry> {
    if from == to {
        return None;
    }
    let fields = fields
        .iter()
        .filter(|(key, value)| !RESERVED.contains(key) && !value.is_empty())
        .map(|(key, value)| ((*key).to_owned(), shortened(value)))
        .collect();
    Some(HistoryEntry {
        seq: 0,
        event: event.as_str().to_owned(),
        phase_from: from.to_owned(),
        phase_to: to.to_owned(),
        at,
        fields,
    })
}

/// The keys that only the trail itself sets.
const RESERVED: [&str; 5] = ["event", "phase_from", "phase_to", "at", "seq"];

fn shortened(value: &str) -> String {
    match value.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// The entry as the flat keys and values that the log line and the event's annotations carry.
pub fn flat(entry: &HistoryEntry) -> BTreeMap<String, String> {
    let mut flat = entry.fields.clone();
    flat.insert("event".into(), entry.event.clone());
    flat.insert("phase_from".into(), entry.phase_from.clone());
    flat.insert("phase_to".into(), entry.phase_to.clone());
    flat.insert("at".into(), entry.at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    flat.insert("seq".into(), entry.seq.to_string());
    flat
}

/// Writes one transition as a log line of its own, for those that belong to no operation (a skipped backup, a
/// step-down, a rollout's member). Nothing when nothing changed.
pub fn log_phase_transition(event: AuditEvent, from: &str, to: &str, fields: &Fields) -> Option<HistoryEntry> {
    let entry = transition(event, from, to, fields, Utc::now())?;
    line::write(&flat(&entry), event.is_warning());
    Some(entry)
}

/// Writes a history entry as a log line.
pub fn log_entry(entry: &HistoryEntry, warning: bool) {
    line::write(&flat(entry), warning);
}

/// Log lines whose fields are known only when they are written.
///
/// tracing wants the field names of a line to be static. Ours are a handful of fixed sets, so each set gets a call site
/// of its own the first time it is used, and keeps it for good.
mod line {
    use std::{
        collections::{BTreeMap, HashMap},
        sync::{Mutex, OnceLock, PoisonError},
    };

    use tracing::{Level, Metadata};
    use tracing_core::{
        Callsite, Event, Interest, Kind,
        callsite::{Identifier, register},
        dispatcher,
        field::{FieldSet, Value},
    };

    const TARGET: &str = "openbao_operator::audit";

    /// More sets than this mean that somebody uses data as keys: those lines carry all of it as one JSON text.
    const MOST_SETS: usize = 512;

    struct Site(OnceLock<Metadata<'static>>);

    impl Callsite for Site {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            self.0.get_or_init(|| unreachable_metadata(self))
        }
    }

    /// A site is registered only once its metadata stand; this is for the type's sake.
    fn unreachable_metadata(_: &Site) -> Metadata<'static> {
        static NONE: Site = Site(OnceLock::new());
        Metadata::new(
            "audit",
            TARGET,
            Level::INFO,
            None,
            None,
            None,
            FieldSet::new(&["message"], Identifier(&NONE)),
            Kind::EVENT,
        )
    }

    type Sites = Mutex<HashMap<(Level, Vec<String>), &'static Site>>;

    fn site(level: Level, keys: Vec<String>) -> Option<&'static Site> {
        static SITES: OnceLock<Sites> = OnceLock::new();
        let mut sites = SITES.get_or_init(Sites::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get(&(level, keys.clone())) {
            return Some(site);
        }
        if sites.len() >= MOST_SETS {
            return None;
        }
        let names: Vec<&'static str> = std::iter::once("message")
            .chain(keys.iter().map(|key| &*Box::leak(key.clone().into_boxed_str())))
            .collect();
        let names: &'static [&'static str] = Box::leak(names.into_boxed_slice());
        let site: &'static Site = Box::leak(Box::new(Site(OnceLock::new())));
        let fields = FieldSet::new(names, Identifier(site));
        site.0.get_or_init(|| Metadata::new("audit", TARGET, level, None, None, None, fields, Kind::EVENT));
        register(site);
        sites.insert((level, keys), site);
        Some(site)
    }

    pub(super) fn write(flat: &BTreeMap<String, String>, warning: bool) {
        let level = if warning { Level::WARN } else { Level::INFO };
        let text = flat.get("event").map_or("audit", String::as_str);
        let keys = flat.keys().filter(|key| *key != "message").cloned().collect();
        let Some(site) = site(level, keys) else {
            tracing::info!(target: "openbao_operator::audit", fields = ?flat, "{text}");
            return;
        };
        let metadata = site.0.get_or_init(|| unreachable_metadata(site));
        let message = flat.get("message").map_or(text, String::as_str);
        let values: Vec<&str> = std::iter::once(message)
            .chain(flat.iter().filter(|(key, _)| *key != "message").map(|(_, value)| value.as_str()))
            .collect();
        let values: Vec<Option<&dyn Value>> = values.iter().map(|value| Some(value as &dyn Value)).collect();
        let enabled = dispatcher::get_default(|current| current.enabled(metadata));
        if enabled {
            Event::dispatch(metadata, &metadata.fields().value_set_all(&values));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        adapter::operationlock::{HeldError, LockError},
        api::cluster::status::LockOperation,
    };

    fn fields(pairs: &[(&'static str, &str)]) -> Fields {
        pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<serde_json::Value> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn nothing_is_said_when_nothing_changed() {
        let lines = logged(|| {
            assert!(
                log_phase_transition(AuditEvent::SagaStepTransition, "running", "running", &Fields::new()).is_none()
            );
        });
        assert!(lines.is_empty());
    }

    #[test]
    fn the_log_line_carries_the_fields_flat_and_the_transition_wins_over_the_callers() {
        let said = fields(&[("step", "Snapshot"), ("phase_from", "lies"), ("phase_to", "lies"), ("cluster", "prod")]);
        let lines = logged(|| {
            log_phase_transition(AuditEvent::SagaStepTransition, "pending", "running", &said);
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!((&line["phase_from"], &line["phase_to"]), (&"pending".into(), &"running".into()));
        assert_eq!((&line["step"], &line["cluster"]), (&"Snapshot".into(), &"prod".into()));
        assert_eq!(line["event"], "SagaStepTransition");
    }

    #[test]
    fn log_line_annotations_and_history_have_the_same_keys_and_values() {
        let mut entry =
            transition(AuditEvent::StepDown, "a", "b", &fields(&[("pod", "prod-0"), ("message", "asked")]), Utc::now())
                .unwrap();
        entry.seq = 7;
        let lines = logged(|| log_entry(&entry, true));
        let annotations = flat(&entry);
        for (key, value) in &annotations {
            assert_eq!(lines[0][key], **value, "{key}");
        }
        assert_eq!(lines[0]["level"], "WARN");
        let history = serde_json::to_value(&entry).unwrap();
        for key in ["phase_from", "phase_to", "event"] {
            assert_eq!(history[key], annotations[key]);
        }
        assert_eq!(history["fields"]["pod"], annotations["pod"]);
    }

    #[test]
    fn a_held_lock_adds_its_holder_and_any_other_error_adds_nothing() {
        let source = HeldError {
            operation: LockOperation::Restore,
            holder: "openbaorestore/nightly".into(),
            holder_uid: "u".into(),
            operation_ref: None,
            message: String::new(),
            fence: 1,
            committed: None,
        };
        let mut said = Fields::new();
        add_held_audit_fields(&mut said, &LockError::EmptyHolder);
        assert!(said.is_empty());
        add_held_audit_fields(&mut said, &LockError::Held { cluster: "prod".into(), source });
        assert_eq!(said, fields(&[("held_by_operation", "Restore"), ("held_by_holder", "openbaorestore/nightly")]));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let said = fields(&[("message", &"é".repeat(2000))]);
        let entry = transition(AuditEvent::StepDown, "a", "b", &said, Utc::now()).unwrap();
        assert_eq!(entry.fields["message"].chars().count(), LONGEST_VALUE + 1);
    }

    const ALL: [AuditEvent; 22] = [
        AuditEvent::OperationLockAcquired,
        AuditEvent::OperationLockBlocked,
        AuditEvent::OperationLockForceAcquired,
        AuditEvent::OperationLockReleased,
        AuditEvent::BackupStarted,
        AuditEvent::BackupCompleted,
        AuditEvent::BackupFailed,
        AuditEvent::BackupSkipped,
        AuditEvent::RestorePhaseTransition,
        AuditEvent::RestoreCompleted,
        AuditEvent::RestoreFailed,
        AuditEvent::RestoreLockLost,
        AuditEvent::UpgradePhaseTransition,
        AuditEvent::UpgradeCompleted,
        AuditEvent::UpgradeFailed,
        AuditEvent::StepDown,
        AuditEvent::SagaStepTransition,
        AuditEvent::RollbackStarted,
        AuditEvent::RollbackCompleted,
        AuditEvent::RolloutMemberTransition,
        AuditEvent::OperationPhaseTransition,
        AuditEvent::OperationRequestHandled,
    ];

    /// What is compiled of our own sources beside this file and the tests.
    fn sources(folder: &std::path::Path) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                all += &sources(&path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "audit.rs" {
                let text = std::fs::read_to_string(&path).unwrap();
                all += text.split("#[cfg(test)]").next().unwrap();
            }
        }
        all
    }

    /// Whoever filters by a name that nobody ever says finds nothing and believes it.
    #[test]
    fn every_event_of_the_trail_is_told_somewhere() {
        use OperationKind::{Backup, DryRun, Restore, RestoreTest, Rollback, Upgrade, Workflow};
        use OperationPhase::{
            Cancelled, ConstraintFailed, Failed, Pending, Recovering, RolledBack, Running, Succeeded, Unknown,
        };
        let phases =
            [Pending, ConstraintFailed, Running, Succeeded, Failed, Recovering, RolledBack, Cancelled, Unknown];
        let mut of_phases = std::collections::HashSet::new();
        for kind in [Backup, Restore, RestoreTest, Upgrade, Rollback, DryRun, Workflow] {
            for from in phases {
                of_phases.extend(phases.map(|to| AuditEvent::of_phase(kind, from, to)));
            }
        }
        let sources = sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        for event in ALL {
            let named = sources.contains(&format!("AuditEvent::{}", event.as_str()));
            assert!(named || of_phases.contains(&event), "{event:?} is never told");
        }
    }

    #[test]
    fn each_kind_of_operation_has_its_own_names() {
        use OperationPhase::{Failed, Pending, Recovering, RolledBack, Running, Succeeded};
        for (kind, from, to, name) in [
            (OperationKind::Backup, Pending, Running, "BackupStarted"),
            (OperationKind::Backup, Running, Succeeded, "BackupCompleted"),
            (OperationKind::Backup, Running, Failed, "BackupFailed"),
            (OperationKind::Restore, Pending, Running, "RestorePhaseTransition"),
            (OperationKind::Restore, Running, Succeeded, "RestoreCompleted"),
            (OperationKind::Restore, Running, Failed, "RestoreFailed"),
            (OperationKind::Upgrade, Running, Recovering, "UpgradePhaseTransition"),
            (OperationKind::Upgrade, Running, Succeeded, "UpgradeCompleted"),
            (OperationKind::Upgrade, Running, Failed, "UpgradeFailed"),
            (OperationKind::Upgrade, Recovering, RolledBack, "UpgradeFailed"),
            (OperationKind::Upgrade, Succeeded, RolledBack, "UpgradePhaseTransition"),
            (OperationKind::Upgrade, Failed, RolledBack, "UpgradePhaseTransition"),
            (OperationKind::Rollback, Pending, Running, "RollbackStarted"),
            (OperationKind::Rollback, Running, Succeeded, "RollbackCompleted"),
            (OperationKind::Workflow, Pending, Running, "OperationPhaseTransition"),
        ] {
            assert_eq!(AuditEvent::of_phase(kind, from, to).as_str(), name);
        }
    }
}
