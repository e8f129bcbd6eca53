//! Where pods reach the API server: what the spec says, or what the API server's own Service says.
//!
//! Some networks judge a connection before the Service's address is translated, others after it, so both addresses are needed.
//! They are asked for only while a cluster has `spec.network` and does not name both itself, and then once for all clusters.

use crate::{
    adapter::kubernetes::client::{RequestError, timed},
    api::NetworkSpec,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Where Kubernetes keeps the API server's Service, and what it and its slice are called.
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Ports of addresses that a person names without a port.
const USUAL_PORTS: [u16; 2] = [443, 6443];
/// How long the answer is believed. Servers behind the Service come and go with nodes of the control plane, which is rare.
const TRUST: Duration = Duration::from_secs(600);
/// How long a failure is: every look of every cluster would ask again.
const RETRY: Duration = Duration::from_secs(30);

/// Why nobody knows where the API server is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be read.
    #[error("failed to read {kind} {NAME} in namespace {NAMESPACE}")]
    Read {
        /// Which kind.
        kind: &'static str,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// It says nothing of use.
    #[error("{kind} {NAME} in namespace {NAMESPACE} has no address")]
    Empty {
        /// Which kind.
        kind: &'static str,
    },
}

impl Error {
    /// It would be the same again: a right is missing, or there is nothing to be found.
    fn lasts(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.is_forbidden() || source.is_not_found(),
            Self::Empty { .. } => true,
        }
    }
}

/// Addresses that are reached at the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// In the form of a network policy.
    pub cidrs: Vec<String>,
    /// TCP.
    pub ports: Vec<u16>,
}

/// What was found out last.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<Last>>);

#[derive(Clone, Debug)]
struct Last {
    /// Until then nobody asks again.
    until: Instant,
    answer: Answer,
    /// What was there when somebody last saw it.
    seen: Vec<Door>,
}

/// One for all clusters.
type Answer = Result<Vec<Door>, Arc<Error>>;

impl Known {
    /// The API server's addresses, in an order that does not change by itself.
    pub async fn doors(&self, client: &Client, network: &NetworkSpec) -> Answer {
        if let Some(mut given) = given(network) {
            // A person who names the Service alone has most likely not thought of what lies behind it.
            if network.api_server_endpoint_ips.is_empty() {
                match self.found(client).await {
                    Ok(found) => given.extend(found),
                    Err(error) if error.lasts() => {}
                    // Who knows in a moment does not take away until then what is let through.
                    Err(error) => return Err(error),
                }
            }
            return Ok(given);
        }
        let mut doors = self.found(client).await?;
        doors.extend(door(network.api_server_endpoint_ips.iter().map(String::as_str), USUAL_PORTS));
        Ok(doors)
    }

    async fn found(&self, client: &Client) -> Answer {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (older, seen) = match last {
            Some(last) if Instant::now() < last.until => return last.answer,
            Some(last) => (last.answer.ok(), last.seen),
            None => (None, Vec::new()),
        };
        let (believed, answer, seen) = match (find(client).await, older) {
            (Ok(doors), _) => (TRUST, Ok(together(&seen, &doors)), doors),
            // They are most likely where they were.
            (Err(error), Some(doors)) => {
                tracing::warn!(error = crate::causes::chain(&error), "going by the API server's older addresses");
                (RETRY, Ok(doors), seen)
            }
            (Err(error), None) => (RETRY, Err(Arc::new(error)), seen),
        };
        let last = Last { until: Instant::now() + believed, answer: answer.clone(), seen };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        answer
    }
}

/// What is there and what was there before it: an API server that restarts is missing for a moment, and comes back where it was.
fn together(before: &[Door], now: &[Door]) -> Vec<Door> {
    fn both<T: Clone + Ord>(one: &[T], other: &[T]) -> Vec<T> {
        one.iter().chain(other).cloned().collect::<BTreeSet<T>>().into_iter().collect()
    }
    let join = |(at, door): (usize, &Door)| match before.get(at) {
        Some(older) => Door { cidrs: both(&older.cidrs, &door.cidrs), ports: both(&older.ports, &door.ports) },
        None => door.clone(),
    };
    now.iter().enumerate().map(join).collect()
}

/// What a person has named.
fn given(network: &NetworkSpec) -> Option<Vec<Door>> {
    let named = Door { cidrs: vec![network.api_server_cidr.clone()?], ports: USUAL_PORTS.to_vec() };
    let behind = door(network.api_server_endpoint_ips.iter().map(String::as_str), USUAL_PORTS);
    Some(std::iter::once(named).chain(behind).collect())
}

async fn find(client: &Client) -> Result<Vec<Door>, Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let (service, slice) = futures::join!(timed(services.get(NAME)), timed(slices.get(NAME)));
    let service = service.map_err(|source| Error::Read { kind: "Service", source })?;
    let slice = slice.map_err(|source| Error::Read { kind: "EndpointSlice", source })?;
    let in_front = of_service(&service).ok_or(Error::Empty { kind: "Service" })?;
    let behind = of_slice(&slice).ok_or(Error::Empty { kind: "EndpointSlice" })?;
    Ok(vec![in_front, behind])
}

fn of_service(service: &Service) -> Option<Door> {
    let spec = service.spec.as_ref()?;
    let several = spec.cluster_ips.iter().flatten();
    let addresses = several.chain(&spec.cluster_ip).map(String::as_str);
    door(addresses, spec.ports.iter().flatten().filter_map(|port| u16::try_from(port.port).ok()))
}

fn of_slice(slice: &EndpointSlice) -> Option<Door> {
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(String::as_str);
    door(addresses, slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()))
}

/// `None` without an address or a port. What is no address is left out.
fn door<'a>(addresses: impl Iterator<Item = &'a str>, ports: impl IntoIterator<Item = u16>) -> Option<Door> {
    let cidr = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    let cidrs: BTreeSet<String> = addresses.filter_map(|address| address.parse().ok()).map(cidr).collect();
    let ports: BTreeSet<u16> = ports.into_iter().collect();
    let is_there = !cidrs.is_empty() && !ports.is_empty();
    is_there.then(|| Door { cidrs: cidrs.into_iter().collect(), ports: ports.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kubernetes::testing::refusing;
    use kube::{client::Body, core::Status};
    use serde_json::{Value, json};
    use std::{
        future::ready,
        sync::atomic::{AtomicUsize, Ordering},
    };

    fn network(spec: Value) -> NetworkSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn service() -> Service {
        let spec = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"port": 443}]});
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn slice() -> EndpointSlice {
        let endpoints = json!([{"addresses": ["192.168.1.11"]}, {"addresses": ["192.168.1.10"]}]);
        serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 6443}]}))
            .unwrap()
    }

    fn found(cidrs: &[&str], ports: &[u16]) -> Door {
        Door { cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(), ports: ports.to_vec() }
    }

    #[test]
    fn the_address_of_the_service_and_those_behind_it_are_known_each_with_its_own_port() {
        assert_eq!(of_service(&service()), Some(found(&["10.96.0.1/32", "fd00::1/128"], &[443])));
        assert_eq!(of_slice(&slice()), Some(found(&["192.168.1.10/32", "192.168.1.11/32"], &[6443])));
        let mut turned = slice();
        turned.endpoints.reverse();
        assert_eq!(of_slice(&turned), of_slice(&slice()), "another order is nothing new to write");
    }

    #[test]
    fn what_has_no_address_or_no_port_is_no_door() {
        assert_eq!(of_service(&Service::default()), None);
        let without = EndpointSlice { ports: None, ..slice() };
        assert_eq!(of_slice(&without), None);
        let headless = json!({"spec": {"clusterIP": "None", "ports": [{"port": 443}]}});
        assert_eq!(of_service(&serde_json::from_value(headless).unwrap()), None);
    }

    #[test]
    fn addresses_that_a_person_names_are_let_through_at_the_usual_ports() {
        let usual = &USUAL_PORTS;
        let named = json!({"apiServerCIDR": "10.96.0.0/12"});
        assert_eq!(given(&network(named)), Some(vec![found(&["10.96.0.0/12"], usual)]));
        let both = json!({"apiServerCIDR": "10.96.0.1/32", "apiServerEndpointIPs": ["fd00::2", "10.0.0.7"]});
        let expected = vec![found(&["10.96.0.1/32"], usual), found(&["10.0.0.7/32", "fd00::2/128"], usual)];
        assert_eq!(given(&network(both)), Some(expected));
        let behind = json!({"apiServerEndpointIPs": ["10.0.0.7"]});
        assert_eq!(given(&network(behind)), None, "they come on top of what is found out");
    }

    fn answering(requests: usize) -> Client {
        counted(requests).0
    }

    /// An API server with these two objects, which refuses everything after so many requests; and how often it was asked.
    fn counted(requests: usize) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let answer = move |request: http::Request<Body>| {
            let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
            let is_slice = request.uri().path().contains("/endpointslices/");
            let (code, body) = if count > requests {
                (403_u16, serde_json::to_vec(&Status::failure("no", "Forbidden").with_code(403)))
            } else {
                (200, if is_slice { serde_json::to_vec(&slice()) } else { serde_json::to_vec(&service()) })
            };
            ready(http::Response::builder().status(code).body(Body::from(body.unwrap())))
        };
        (Client::new(tower::service_fn(answer), "reef"), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn all_clusters_share_one_answer_and_an_older_one_is_better_than_none() {
        let (known, client) = (Known::default(), answering(2));
        let first = known.doors(&client, &network(json!({}))).await.unwrap();
        assert_eq!(first.len(), 2);
        let more = network(json!({"apiServerEndpointIPs": ["10.0.0.7"]}));
        let second = known.doors(&client, &more).await.unwrap();
        assert_eq!((&second[..2], second.len()), (&first[..], 3), "nobody was asked a third time");
        tokio::time::advance(TRUST).await;
        assert_eq!(known.doors(&client, &network(json!({}))).await.unwrap(), first, "the refusal is not the end");
    }

    #[tokio::test(start_paused = true)]
    async fn to_a_range_alone_what_can_be_found_out_is_added_and_where_nothing_can_it_stands_alone() {
        let range = || network(json!({"apiServerCIDR": "10.96.0.0/12"}));
        let named = found(&["10.96.0.0/12"], &USUAL_PORTS);
        let (known, (client, asked)) = (Known::default(), counted(2));
        let doors = known.doors(&client, &range()).await.unwrap();
        assert_eq!((doors.len(), &doors[0]), (3, &named));
        assert!(
            doors.contains(&of_slice(&slice()).unwrap()),
            "a network that judges after translation sees these: {doors:?}"
        );
        let both = network(json!({"apiServerCIDR": "10.96.0.0/12", "apiServerEndpointIPs": ["10.0.0.7"]}));
        assert_eq!(Known::default().doors(&client, &both).await.unwrap().len(), 2);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "who names both is asked about by nobody");

        let (known, (client, asked)) = (Known::default(), counted(0));
        for _ in 0..3 {
            assert_eq!(known.doors(&client, &range()).await.unwrap(), std::slice::from_ref(&named));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "not with each look");
        let away = refusing(503, "ServiceUnavailable");
        let error = Known::default().doors(&away, &range()).await.unwrap_err();
        assert!(!error.lasts(), "a moment later it is known: {error}");
    }

    #[test]
    fn an_api_server_that_is_missing_for_a_moment_stays_let_through_until_it_is_missing_twice() {
        let (front, one) = (found(&["10.96.0.1/32"], &[443]), |cidrs: &[&str]| found(cidrs, &[6443]));
        let seen = [["a", "b", "c"].as_slice(), &["a", "c"], &["a", "c"], &["a", "c", "d"]]
            .map(|all| [front.clone(), one(all)]);
        let told = |before: usize, now: usize| together(&seen[before], &seen[now])[1].cidrs.join("");
        assert_eq!(
            (told(0, 0), told(0, 1), told(1, 2), told(2, 3)),
            ("abc".into(), "abc".into(), "ac".into(), "acd".into())
        );
        assert_eq!(together(&[], &seen[0]), seen[0], "nothing was seen before");
        assert_eq!(together(&seen[1], &seen[0])[0], front);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_goes_is_believed_for_one_answer_more() {
        let known = Known::default();
        known.doors(&answering(2), &network(json!({}))).await.unwrap();
        let mut gone = slice();
        gone.endpoints.pop();
        let less = move |request: &http::Request<Body>| {
            let is_slice = request.uri().path().contains("/endpointslices/");
            serde_json::to_vec(&if is_slice { json!(gone) } else { json!(service()) }).unwrap()
        };
        let client = Client::new(
            tower::service_fn(move |request: http::Request<Body>| {
                ready(http::Response::builder().body(Body::from(less(&request))))
            }),
            "reef",
        );
        let mut counts = Vec::new();
        for _ in 0..2 {
            tokio::time::advance(TRUST).await;
            counts.push(known.doors(&client, &network(json!({}))).await.unwrap()[1].cidrs.len());
        }
        assert_eq!(counts, [2, 1]);
    }

    #[tokio::test]
    async fn whoever_may_not_read_them_is_told_so() {
        let error = Known::default().doors(&answering(0), &network(json!({}))).await.unwrap_err();
        assert!(error.to_string().contains("Service kubernetes in namespace default"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_for_all_clusters_and_asked_about_again_after_a_while() {
        let known = Known::default();
        known.doors(&answering(0), &network(json!({}))).await.unwrap_err();
        let granted = answering(2);
        known.doors(&granted, &network(json!({}))).await.unwrap_err();
        tokio::time::advance(RETRY).await;
        assert_eq!(known.doors(&granted, &network(json!({}))).await.unwrap().len(), 2, "nobody was asked before");
    }

    #[tokio::test(start_paused = true)]
    async fn while_they_cannot_be_read_the_older_ones_are_not_asked_about_in_each_look() {
        let (known, (client, asked)) = (Known::default(), counted(2));
        let first = known.doors(&client, &network(json!({}))).await.unwrap();
        tokio::time::advance(TRUST).await;
        for _ in 0..3 {
            assert_eq!(known.doors(&client, &network(json!({}))).await.unwrap(), first);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 4, "two objects at first, and both once more");
    }
}
