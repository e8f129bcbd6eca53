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
    let certificates = keys::certificates(applier, spec, facts, &notes.tls, &mut notes.believed, now).await?;
    let in_use = obstacle::key_in_use(facts, members, &spec.name, stage, now);
    let data = members::leader(members).and_then(cluster_id::serving_id);
    let data = data.filter(|_| cluster_id::ids(members).len() == 1);
    let opened = Opened::newest(&facts.operations, &spec.uid, data);
    let seal = keys::unseal(applier, spec, facts, stage, &notes.seal, in_use.as_deref(), opened.as_ref()).await?;
    let account = accounts::missing(&applier.client, spec, facts).await;
    let obstacles = Obstacles::of(&certificates, seal.as_ref()).or(account.as_ref());
    Ok(Means { certificates, seal, account, obstacles })
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
        api::UpgradeStatus,
        service::cluster::{trouble::TlsState, validate::tests::cluster},
    };

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
