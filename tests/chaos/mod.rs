//! Everything at once, for minutes: scheduled backups, restores and upgrades at random, and all that dies meanwhile:
//! operator, servers, Jobs, store, API server, containerd (so it has a devcluster of its own). What was acknowledged is written down by an [`oracle`]; at the end every secret of
//! it is there, or a restore that was asked for explains why not, and nothing is left lying about.
//!
//! `cargo xtask test --chaos 10` or, by hand, `OPENBAO_CHAOS_MINUTES=10 OPENBAO_CHAOS_SEED=7 cargo test --workspace --test
//! cluster -- --ignored --nocapture chaos::`. The seed decides what is done when; what the servers make of it is theirs.

mod oracle;
mod world;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use world::World;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --chaos MINUTES"]
async fn whatever_dies_every_acknowledged_secret_is_there_or_a_restore_explains_it() {
    let minutes = number("OPENBAO_CHAOS_MINUTES", 5);
    let seed = number("OPENBAO_CHAOS_SEED", 1);
    let clusters = usize::try_from(number("OPENBAO_CHAOS_CLUSTERS", 5)).unwrap();
    eprintln!("chaos: seed {seed}, {minutes} minutes, {clusters} clusters");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut world = World::open(clusters).await;
    let end = Instant::now() + Duration::from_mins(minutes);
    while Instant::now() < end {
        let pause = dice.random_range(2_000..9_000_u64);
        world.write_for(Duration::from_millis(pause)).await;
        let cluster = dice.random_range(0..clusters);
        match dice.random_range(0..100_u32) {
            0..20 => world.kill_operator(Duration::from_millis(dice.random_range(0..6_000))).await,
            20..45 => world.kill_server(cluster, dice.random_range(0..16)).await,
            45..65 => world.kill_job(dice.random_range(0..16)).await,
            65..72 => world.kill_store().await,
            72..76 => world.kill_node_program("kube-apiserver").await,
            76..80 => world.kill_node_program("containerd").await,
            80..92 => world.restore(cluster, dice.random_range(0..16)).await,
            _ => world.upgrade(cluster).await,
        }
    }
    world.calm().await;
    world.judge().await;
}
