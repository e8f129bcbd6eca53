//! Autopilot's settings, which OpenBao takes through its API only.
//!
//! They are told again when there is a reason to: the spec says something else, or another server leads. Whoever leads after
//! a restore knows what the snapshot knew, and every server is restarted by one. So an idle cluster is told nothing.

pub(super) mod told;

use self::told::{Answer, Told, is_due};
use super::{
    hcl::Value,
    members::{self, Member},
    memory::Notes,
    trouble::{Trouble, reasons},
    validate::ValidatedCluster,
    voters,
};
use crate::{
    adapter::{
        Adapters,
        openbao::{Error as BaoError, Result as BaoResult},
    },
    api::{OpenBaoCluster, conditions::reason},
    causes::chain,
};
use tokio::time::Instant;

/// Where they are told.
pub const PATH: &str = "sys/storage/raft/autopilot/configuration";

/// What is still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// It is tried again.
    Waits(Trouble),
    /// Only a person can mend it.
    Refused(Trouble),
}

/// What the spec asks for, as OpenBao's API names it. What it does not name is not touched.
pub fn settings(cluster: &ValidatedCluster) -> Option<Value> {
    let asked = cluster.spec.configuration.raft.as_ref()?.autopilot.as_ref()?;
    let mut data: Vec<(String, Value)> = Vec::new();
    let mut add = |key: &str, value: Option<Value>| data.extend(value.map(|value| (key.to_owned(), value)));
    // OpenBao refuses to clean without a floor. A pod that comes back has the name it had, so this one only ever gives up members
    // beyond those that are wanted.
    let floor = || i32::try_from(cluster.replicas).unwrap_or(i32::MAX).max(3);
    let cleans = asked.cleanup_dead_servers == Some(true);
    add("cleanup_dead_servers", asked.cleanup_dead_servers.map(Value::from));
    add("dead_server_last_contact_threshold", asked.dead_server_last_contact_threshold.as_ref().map(Value::from));
    add("last_contact_threshold", asked.last_contact_threshold.as_ref().map(Value::from));
    add("max_trailing_logs", asked.max_trailing_logs.map(Value::from));
    add("min_quorum", asked.min_quorum.or_else(|| cleans.then(floor)).map(Value::from));
    add("server_stabilization_time", asked.server_stabilization_time.as_ref().map(Value::from));
    (!data.is_empty()).then_some(Value::Object(data))
}

/// Tells the leader what the spec asks for, if there is a reason to. `None`: it is so, or nobody of ours can ever log in, which the
/// condition `Supported` says, or cannot now, which `OperatorAccess` says.
pub async fn keep(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    members: &[Member],
) -> Option<Open> {
    let Some(settings) = settings(spec) else {
        notes.autopilot = None;
        return None;
    };
    let leader = members::leader(members)?;
    if !spec.may_log_in() || matches!(notes.access, Some(Err(_))) {
        return None;
    }
    if is_due(notes.autopilot.as_ref(), &settings, &leader.uid) && ad.leadership.still_leader() {
        let answer = tell(ad, notes, cluster, leader, &settings).await?;
        notes.autopilot = Some(Told { settings, leader: leader.uid.clone(), at: Instant::now(), answer });
    }
    open(&notes.autopilot.as_ref()?.answer)
}

/// `None`: the login was refused.
async fn tell(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    leader: &Member,
    settings: &Value,
) -> Option<Answer> {
    let remembered = notes.token.is_some();
    let Some(token) = voters::login(ad, notes, cluster, leader).await else {
        return match notes.access {
            Some(Err(_)) => None,
            _ => Some(Answer::None("the operator could not log in".to_owned())),
        };
    };
    let told = match leader.client()? {
        Ok(client) => client.put(&token, PATH, &serde_json::Value::from(settings)).await,
        Err(error) => Err(error),
    };
    if told.is_err() {
        notes.token = None;
    }
    Some(judge(told, remembered))
}

/// A token that was remembered may be one that the server does not know any more.
fn judge(told: BaoResult<()>, remembered: bool) -> Answer {
    match told {
        Ok(()) => Answer::Taken,
        Err(error) if error.is_refusal() && !(remembered && error.is_denied()) => Answer::Refused(refusal(&error)),
        Err(error) => Answer::None(chain(&error)),
    }
}

fn refusal(error: &BaoError) -> String {
    let way_out = if error.is_denied() {
        format!("give the operator's policy the capability update on {PATH}")
    } else {
        "correct them".to_owned()
    };
    format!("OpenBao refused the settings of spec.configuration.raft.autopilot, {way_out}: {}", chain(error))
}

fn open(answer: &Answer) -> Option<Open> {
    match answer {
        Answer::Taken => None,
        Answer::Refused(why) => Some(Open::Refused(Trouble::new(reasons::AUTOPILOT_REFUSED, why))),
        Answer::None(why) => {
            let why = format!("autopilot's settings are not told to the leader yet: {why}");
            Some(Open::Waits(Trouble::new(reason::WAITING, why)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::{Value as Json, json};

    fn asked(autopilot: &Json, replicas: u32) -> Option<Json> {
        let cluster = valid(|s| {
            s["configuration"] = json!({"raft": {"autopilot": autopilot}});
            s["replicas"] = json!(replicas);
        });
        settings(&cluster).map(|value| Json::from(&value))
    }

    #[test]
    fn only_what_the_spec_names_is_told_and_cleaning_has_a_floor() {
        assert_eq!(settings(&valid(|_| {})), None);
        for (autopilot, replicas, expected) in [
            (json!({}), 3, None),
            (json!({"maxTrailingLogs": 500}), 3, Some(json!({"max_trailing_logs": 500}))),
            (json!({"cleanupDeadServers": false}), 3, Some(json!({"cleanup_dead_servers": false}))),
            (json!({"cleanupDeadServers": true}), 5, Some(json!({"cleanup_dead_servers": true, "min_quorum": 5}))),
            (json!({"cleanupDeadServers": true}), 1, Some(json!({"cleanup_dead_servers": true, "min_quorum": 3}))),
            (
                json!({"cleanupDeadServers": true, "minQuorum": 4}),
                5,
                Some(json!({"cleanup_dead_servers": true, "min_quorum": 4})),
            ),
        ] {
            assert_eq!(asked(&autopilot, replicas), expected, "{autopilot}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_what_to_do_and_silence_is_waited_out() {
        let error = |status: u16| {
            let (pod, request, detail) = ("kelp-0".to_owned(), format!("PUT {PATH}"), "no".to_owned());
            match status {
                403 => BaoError::Denied { pod, request, detail },
                503 => BaoError::Sealed { pod, request, detail },
                status => BaoError::Refused { pod, request, status, detail },
            }
        };
        assert_eq!(open(&judge(Ok(()), false)), None);
        let refused = |status, remembered| match open(&judge(Err(error(status)), remembered)) {
            Some(Open::Refused(trouble)) => trouble.message,
            other => format!("{other:?}"),
        };
        assert!(refused(403, false).contains("capability update on sys/storage/raft/autopilot/configuration"));
        assert!(refused(400, true).contains("correct them"));
        for (status, remembered, why) in
            [(403, true, "the token may be an old one"), (503, false, "it is sealed"), (500, false, "it is in trouble")]
        {
            assert!(matches!(open(&judge(Err(error(status)), remembered)), Some(Open::Waits(_))), "{why}");
        }
    }
}
