//! The crash matrix: every operation, every write of the operator in it, and at each write a death before it, a death
//! after it, and an answer that never comes. The end must be that of a run in which nothing happened.
//!
//! A clean run measures the writes. Then the fault layer in the operator ([`rules`]) strikes at one of them, the test
//! starts the operator again, and [`run`] compares what is there at the end: objects, journals, conditions, the lock,
//! secrets in OpenBao, files in the store, and how often OpenBao and Kubernetes saw the effects.

mod cell;
mod disturbed;
mod place;
mod rules;
mod run;
mod scenario;

/// A cell of each kind, spread over each operation and always the same: the quickest look at all of them.
mod sample {
    use super::run::{Choice, matrix};
    use super::scenario::{backup, bootstrap, restore, restoretest, upgrade, workflow};

    #[tokio::test(flavor = "multi_thread")]
    async fn workflow_and_its_operators_death() {
        matrix::<workflow::Workflow>(Choice::Sample, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn backup_and_its_operators_death() {
        matrix::<backup::Backup>(Choice::Sample, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn restore_test_and_its_operators_death() {
        matrix::<restoretest::RestoreTest>(Choice::Sample, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn restore_and_its_operators_death() {
        matrix::<restore::Restore>(Choice::Sample, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn upgrade_and_its_operators_death() {
        matrix::<upgrade::Upgrade>(Choice::Sample, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bootstrap_and_its_operators_death() {
        matrix::<bootstrap::Bootstrap>(Choice::Sample, 1).await;
    }
}

/// All cells, by `cargo xtask test --matrix`. `OPENBAO_MATRIX_CELLS=17:after,18:lost` runs only these,
/// `OPENBAO_MATRIX_LANES` says in how many places at once, `OPENBAO_MATRIX_MINUTES` stops early.
mod whole {
    use super::run::{Choice, matrix};
    use super::scenario::{backup, bootstrap, restore, restoretest, rollback, rotation, scale, upgrade, workflow};

    const LANES: usize = 2;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn workflow() {
        matrix::<workflow::Workflow>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn backup() {
        matrix::<backup::Backup>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn retention() {
        matrix::<backup::Retention>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn restore_test() {
        matrix::<restoretest::RestoreTest>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn restore() {
        matrix::<restore::Restore>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn upgrade() {
        matrix::<upgrade::Upgrade>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn bootstrap() {
        matrix::<bootstrap::Bootstrap>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn scale() {
        matrix::<scale::Scale>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn rotation() {
        matrix::<rotation::Rotation>(Choice::Whole, LANES).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn rollback() {
        matrix::<rollback::Rollback>(Choice::Whole, LANES).await;
    }
}

/// The same operations with a second operator, or with watches that tell late, twice, or nothing for a while.
mod beside {
    use super::disturbed::{How, disturbed};
    use super::scenario::{backup, restore, upgrade};

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn two_operators_at_once_take_one_backup() {
        disturbed::<backup::Backup>(&[How::TwoOperators]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn two_operators_at_once_restore_once() {
        disturbed::<restore::Restore>(&[How::TwoOperators]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn a_backup_with_a_second_operator_and_unreliable_watches() {
        disturbed::<backup::Backup>(&How::ALL).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn a_restore_with_a_second_operator_and_unreliable_watches() {
        disturbed::<restore::Restore>(&How::ALL).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "long: cargo xtask test --matrix"]
    async fn an_upgrade_with_a_second_operator_and_unreliable_watches() {
        disturbed::<upgrade::Upgrade>(&How::ALL).await;
    }
}
