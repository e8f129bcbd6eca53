//! By which names servers are asked, and which of them a certificate that is there has to carry.

use super::{tls, validate::ValidatedCluster};
use std::collections::BTreeSet;

/// Names for the certificate that the operator makes.
#[derive(Debug)]
pub(super) struct Asked {
    /// All of them: a new certificate carries these.
    pub(super) all: BTreeSet<String>,
    /// Those for which one is made anew.
    pub(super) enough: BTreeSet<String>,
}

impl Asked {
    /// `extra` are those beside the cluster's own. `new`: the spec asks for something that nobody had seen before this process came.
    /// Without that no certificate is replaced for the host of an Ingress or a Gateway alone, which an operator before this one may
    /// have made nothing of: a new operator restarts no servers by itself. The host comes with the next certificate.
    pub(super) fn of(cluster: &ValidatedCluster, extra: &[String], new: bool) -> Self {
        let names = |extra: &[String]| tls::serving_names(&cluster.name, &cluster.namespace, extra);
        Self { all: names(extra), enough: names(if new { extra } else { &cluster.spec.tls.extra_sans }) }
    }
}

#[cfg(test)]
mod tests {
    use crate::service::cluster::{
        attempts::tests::{applier, methods, refusal},
        authorities,
        build::{hash, secrets},
        facts::Facts,
        keys::{Remembered, certificates},
        tls,
        validate::tests::valid,
    };
    use chrono::{DateTime, Utc};
    use serde_json::{Value, json};
    use std::{collections::BTreeSet, sync::Arc};

    type Change = fn(&mut Value);

    #[tokio::test]
    async fn a_new_operator_issues_no_certificate_for_a_host_alone_and_any_later_one_carries_it() {
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let authority = tls::new_authority("kelp", "reef", now).unwrap();
        let host = "bao.example.org".to_owned();
        // By the hash of the certificate before, if it was kept; and whether the one to serve carries the host.
        let looked = async |change: Change, new: bool, carries: &[String], now: DateTime<Utc>| {
            let cluster = valid(change);
            let names = tls::serving_names("kelp", "reef", carries);
            let issued: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
            let before = tls::issue(&authority, &names, tls::DEFAULT_ROTATION, issued).unwrap();
            let ours = [
                ("kelp-tls-ca", secrets::authority(&cluster, &authority, "")),
                ("kelp-tls-server", secrets::serving(&cluster, &before, &authority.cert)),
            ];
            let facts = Facts {
                secrets: ours.map(|(name, secret)| (name.to_owned(), Arc::new(secret))).into(),
                ..Facts::default()
            };
            let (applier, asked) = applier(|_| refusal(403, "Forbidden", "nothing is asked"));
            let found = certificates(&applier, &cluster, &facts, &Remembered::default(), &mut None, new, now).await;
            assert!(methods(&asked).is_empty());
            let found = found.unwrap();
            let served = found.secret.unwrap();
            let text = |field: &str| authorities::text(&served, field).unwrap();
            let asked = BTreeSet::from([host.clone()]);
            let carried = tls::judge(&text("tls.crt"), &text("tls.key").into(), &authority.cert, &asked, now).is_ok();
            (found.hash == Some(hash::certificate(&before.cert)), carried)
        };
        let exposed: Change = |spec| {
            spec["ingress"] = json!({"enabled": true, "host": "bao.example.org"});
        };
        let named: Change = |spec| {
            spec["tls"] = json!({"enabled": true, "extraSANs": ["bao.example.org"]});
        };
        let due = now + chrono::TimeDelta::days(340);
        let (none, with): (&[String], &[String]) = (&[], std::slice::from_ref(&host));
        for (why, change, new, carries, at, expected) in [
            ("it was on before this operator came", exposed, false, none, now, (true, false)),
            ("the spec says something new", exposed, true, none, now, (false, true)),
            ("it is due", exposed, false, none, due, (false, true)),
            ("it carries the host", exposed, false, with, now, (true, true)),
            ("a person named it, whoever ran then", named, false, none, now, (false, true)),
        ] {
            assert_eq!(looked(change, new, carries, at).await, expected, "{why}");
        }
    }
}
