//! The end of a restore: one server leads, the others follow, and autopilot finds everybody healthy.

use std::time::Duration;

use super::away::{self, Away};
use super::{LINGER, Step, chain, evidence, submit};
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::plan;

/// Output key of [`await_healthy`].
pub const HEALTH: &str = "health";
/// How often the servers are asked meanwhile: each look takes a login.
const LOOK_WITH_LOGIN: Duration = Duration::from_secs(1);

/// Done when one leads, all others follow it, and autopilot finds everybody healthy, where we may ask it. In a plain restore a
/// majority is enough in the end, and the others are named.
pub async fn await_healthy(step: &Step<'_>) -> StepOutcome {
    let linger = step.call.turns.linger(LINGER);
    loop {
        let outcome = healthy(step).await;
        if !matches!(outcome, StepOutcome::Waiting { .. }) || !linger.pause(LOOK_WITH_LOGIN).await {
            return outcome;
        }
    }
}

async fn healthy(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let members = step.members(cluster).await;
    let Some(leader) = members::leader(&members) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader");
    };
    let all = away::all(cluster, step.all_servers(cluster));
    let index: u64 = step.call.output(plan::SUBMIT, submit::INDEX).unwrap_or_default().parse().unwrap_or_default();
    let follows = |member: &Member| away::follows(member, leader, index);
    // A rollback has brought all of them back before, and ends with all of them.
    let absent = if step.inputs.onto.is_some() { Vec::new() } else { Away::of(step).absent(&members, &all, follows) };
    if (all.len() - absent.len()) * 2 <= all.len() {
        return StepOutcome::in_progress("waiting for a majority of the servers");
    }
    if let Some(name) = away::podless(&members, &all).iter().find(|name| !absent.contains(name)) {
        return StepOutcome::in_progress(format!("waiting for server {name} to have a pod"));
    }
    if let Some(apart) = members.iter().find(|member| !follows(member) && !absent.contains(&member.name)) {
        return StepOutcome::in_progress(format!("waiting for {} to follow {}", apart.name, leader.name));
    }
    let done = |health: String| {
        let absent = (!absent.is_empty()).then(|| (away::ABSENT, absent.join(", ")));
        StepOutcome::done_with([(HEALTH, health)].into_iter().chain(absent))
    };
    let token = match evidence::token(step, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => {
            return done("every server that is up follows one leader (autopilot not asked: no login)".to_owned());
        }
        Err(error) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    };
    let Some(Ok(client)) = leader.client() else {
        return StepOutcome::in_progress(format!("waiting for pod {} to have an address", leader.name));
    };
    match client.autopilot_state(&token).await {
        Ok(state) if away::is_fit(&state, &absent) => {
            let but = if absent.is_empty() { String::new() } else { format!(" but for {}", absent.join(", ")) };
            done(format!("autopilot: healthy{but}, may lose {} more", state.failure_tolerance))
        }
        Ok(_) => StepOutcome::in_progress("waiting for autopilot to find every server healthy"),
        Err(error) if error.is_denied() => {
            done("every server that is up follows one leader (autopilot may not be asked)".to_owned())
        }
        Err(error) => StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    }
}
