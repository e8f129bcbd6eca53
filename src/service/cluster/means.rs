//! What servers start with: certificates, the seal's key or credentials, an account. And what stands in the way of those that do.

use super::{
    accounts,
    apply::Applier,
    bootstrap::Stage,
    cluster_id,
    facts::Facts,
    keys::{self, Certificates},
    members::{self, Member},
    memory::Notes,
    obstacle::{self, Obstacles},
    trouble::Trouble,
    validate::ValidatedCluster,
};
use crate::{api::OpenBaoCluster, service::backup::opened::Opened};
use chrono::{DateTime, Utc};

/// What was found.
pub(super) struct Means {
    pub(super) certificates: Certificates,
    /// What is wrong with the seal's key or credentials.
    pub(super) seal: Option<Trouble>,
    /// What is wrong with the account.
    pub(super) account: Option<Trouble>,
    /// What all of it means for servers that start.
    pub(super) obstacles: Obstacles,
}

/// Looks, and makes what the operator may make.
pub(super) async fn look(
    applier: &Applier,
    notes: &mut Notes,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
    stage: Stage,
    now: DateTime<Utc>,
) -> Result<Means, keys::Error> {
    let new = !notes.asks_nothing_new(spec.generation);
    let certificates = keys::certificates(applier, spec, facts, &notes.tls, &mut notes.believed, new, now).await?;
    let in_use = obstacle::key_in_use(facts, members, &spec.name, stage, now);
    let data = data(members, &mut notes.led_id);
    let opened = Opened::newest(&facts.operations, &spec.uid, data);
    let seal = keys::unseal(applier, spec, facts, stage, &notes.seal, in_use.as_deref(), opened.as_ref()).await?;
    let account = accounts::missing(&applier.client, spec, facts).await;
    let obstacles = Obstacles::of(&certificates, seal.as_ref()).or(account.as_ref());
    Ok(Means { certificates, seal, account, obstacles })
}

/// Whose data the servers hold, by the id that the one that leads names, if nobody names another. `led`: what the last one that led
/// has named. An election and an answer that the leader misses change nothing of it, and whoever waits for a key must not go on in
/// such a moment: while nobody leads it holds as long as a majority names it. Sealed servers name none, so nothing is said of what a
/// restore has brought until somebody leads again.
fn data<'a>(members: &'a [Member], led: &mut Option<String>) -> Option<&'a str> {
    let mut named = members.iter().filter_map(cluster_id::serving_id);
    let data = if let Some(leader) = members::leader(members) {
        let data = cluster_id::serving_id(leader);
        *led = data.map(str::to_owned);
        data
    } else {
        let known = named.next().filter(|id| led.as_deref() == Some(*id));
        known.filter(|_| (1 + named.count()) * 2 > members.len())
    };
    data.filter(|_| cluster_id::ids(members).len() == 1)
}

/// Why no server would come back, for those who take one down. While nobody can look, what was seen last counts; so it does for a
/// process that has not looked everywhere yet.
pub(super) fn returning(means: Option<&Means>, notes: &Notes, cluster: &OpenBaoCluster) -> Option<String> {
    let before = || cluster.obstacle().map(str::to_owned);
    let Some(means) = means else { return before() };
    let found = means.obstacles.clone().or(notes.taken.as_ref()).returning.as_ref().map(obstacle::words);
    found.or_else(|| before().filter(|_| !notes.looked_there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::openbao::HealthState::{Active, Sealed, Standby},
        api::UpgradeStatus,
        service::cluster::{members::tests::member, trouble::TlsState, validate::tests::cluster},
    };

    /// Three members of the cluster `id-1` that the first one leads.
    fn led() -> Vec<Member> {
        vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, Some(0))]
    }

    #[test]
    fn whose_data_it_is_stays_known_for_a_look_in_which_nobody_leads() {
        let elects: Vec<Member> = (0..3).map(|ordinal| member(ordinal, Standby, None)).collect();
        let mut misses = led();
        misses[0].view = None;
        let mut one_is_sealed = elects.clone();
        one_is_sealed[2] = member(2, Sealed, None);
        for between in [&elects[..], &misses[..], &elects[..2], &one_is_sealed[..]] {
            let mut known = None;
            for seen in [&led()[..], between, between, &led()[..]] {
                assert_eq!(data(seen, &mut known), Some("id-1"), "{between:?}");
            }
        }
        assert_eq!(data(&elects, &mut None), None, "a process that has just begun does not know");
    }

    #[test]
    fn nothing_is_said_of_data_that_nobody_who_leads_has_named() {
        let named = |ids: [&str; 3]| -> Vec<Member> {
            let of = |(ordinal, id): (u32, &str)| {
                let mut member = member(ordinal, Standby, None);
                member.health.as_mut().unwrap().cluster_id = Some(id.to_owned());
                member
            };
            (0..).zip(ids).map(of).collect()
        };
        let sealed: Vec<Member> = (0..3).map(|ordinal| member(ordinal, Sealed, None)).collect();
        let mut one_was_down = sealed.clone();
        one_was_down[2] = member(2, Standby, None);
        let torn = named(["id-1", "id-1", "id-2"]);
        let restored = named(["id-2"; 3]);
        for (why, seen) in [
            ("a restore has brought data with another key", &sealed),
            ("one that was down meanwhile still has the old data", &one_was_down),
            ("it is not known whose it is", &torn),
            ("it is another's", &restored),
        ] {
            let mut known = Some("id-1".to_owned());
            assert_eq!(data(seen, &mut known), None, "{why}");
        }
        let mut known = Some("id-1".to_owned());
        let mut leads = led();
        for member in &mut leads {
            member.health.as_mut().unwrap().cluster_id = Some("id-2".into());
        }
        assert_eq!(data(&leads, &mut known), Some("id-2"));
        assert_eq!(data(&named(["id-1"; 3]), &mut known), None, "what led before the last one counts no more");
    }

    #[test]
    fn whoever_takes_servers_down_is_told_what_was_found_or_what_was_found_last() {
        let mut cluster = cluster(|_| {});
        let upgrade = UpgradeStatus { obstacle: Some("as before".into()), ..UpgradeStatus::default() };
        cluster.status.get_or_insert_default().upgrade = Some(upgrade);
        let certificates =
            Certificates { state: TlsState::Off, bundle: None, hash: None, secret: None, obstacle: None };
        let seal = Trouble::new("SealCredentialsMissing", "Secret mine does not exist");
        let found = |seal: Option<Trouble>| Means {
            obstacles: Obstacles::of(&certificates, seal.as_ref()),
            certificates: certificates.clone(),
            seal,
            account: None,
        };
        let told = |means: Option<&Means>, notes: &Notes| returning(means, notes, &cluster).unwrap_or_default();
        let mut notes = Notes::default();
        assert_eq!(told(Some(&found(None)), &notes), "as before", "what lies under the stanza's name is not known yet");
        notes.looked_there = true;
        assert_eq!(told(None, &notes), "as before", "the API server does not answer");
        assert_eq!(told(Some(&found(None)), &notes), "", "it is mended");
        assert!(told(Some(&found(Some(seal))), &notes).contains("(SealCredentialsMissing): Secret mine"));
        notes.taken = Some(Trouble::new("NameTaken", "ConfigMap kelp-bootstrap is theirs"));
        assert!(told(Some(&found(None)), &notes).contains("kelp-bootstrap"));
    }
}
