//! What can happen to the events of a watch. An event is one line of the answer's body.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::Response;
use serde_json::Value;

use super::engine::Engine;
use super::rules::{Call, Fault};

/// How soon a changed rule is noticed by a watch on which nothing happens.
const TICK: Duration = Duration::from_millis(50);
/// How long an event waits for a neighbour to change places with.
const NEIGHBOUR: Duration = Duration::from_millis(500);

/// Events under way.
#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they are delivered, each with its earliest time.
    waiting: VecDeque<(Instant, Bytes)>,
    seen: u64,
}

impl Queue {
    /// Takes in one event. `frozen_until` and delays only move its time: order is kept but for [`Fault::Swap`].
    fn take(&mut self, event: Bytes, fault: Option<&(Fault, Instant)>, now: Instant) {
        self.seen += 1;
        match fault {
            Some((Fault::Behind { millis }, _)) => {
                self.waiting.push_back((now + Duration::from_millis(*millis), event));
            }
            Some((Fault::Duplicate, _)) => {
                self.waiting.push_back((now, event.clone()));
                self.waiting.push_back((now, event));
            }
            Some((Fault::Swap, _)) => {
                let due = now + NEIGHBOUR;
                match self.waiting.back() {
                    Some((_, before)) if object(before) != object(&event) => {
                        let at = self.waiting.len() - 1;
                        self.waiting.insert(at, (now, event));
                    }
                    _ => self.waiting.push_back((due, event)),
                }
            }
            Some((Fault::OneBehind { millis }, _)) => {
                let of = object(&event);
                let earlier = self.waiting.iter().position(|(_, before)| of.is_some() && object(before) == of);
                if let Some((_, before)) = earlier.and_then(|at| self.waiting.remove(at)) {
                    self.waiting.push_front((now, before));
                }
                self.waiting.push_back((now + Duration::from_millis(*millis), event));
            }
            Some((Fault::Skip { every }, _)) if self.seen.is_multiple_of(*every) => {}
            _ => self.waiting.push_back((now, event)),
        }
    }

    /// The next one, if it is time.
    fn give(&mut self, fault: Option<&(Fault, Instant)>, now: Instant) -> Option<Bytes> {
        if let Some((Fault::Freeze { seconds }, since)) = fault
            && now < *since + Duration::from_secs(*seconds)
        {
            return None;
        }
        if self.waiting.front()?.0 > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, event)| event)
    }
}

/// Which object an event is about. Bookmarks are about none, and change places with nothing.
fn object(event: &Bytes) -> Option<String> {
    let event: Value = serde_json::from_slice(event).ok()?;
    event["object"]["metadata"]["uid"].as_str().map(str::to_owned)
}

struct Watch {
    engine: &'static Engine,
    call: Call,
    opened: Instant,
    /// `None` once the server has ended it.
    events: Option<BodyDataStream>,
    partial: BytesMut,
    queue: Queue,
}

/// The same watch, with faults in its stream.
pub(super) fn disturb(engine: &'static Engine, call: Call, answer: Response<Body>) -> Response<Body> {
    answer.map(|body| {
        let watch = Watch {
            engine,
            call,
            opened: Instant::now(),
            events: Some(body.into_data_stream()),
            partial: BytesMut::new(),
            queue: Queue::default(),
        };
        Body::from_stream(stream::unfold(watch, |mut watch| async move {
            let next = watch.next().await?;
            Some((next, watch))
        }))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            let fault = self.engine.watching(&self.call);
            if let Some((Fault::Cut, since)) = &fault
                && self.opened < *since
            {
                return Some(Err(axum::Error::new(std::io::Error::other("the watch was cut, on purpose"))));
            }
            if let Some(event) = self.queue.give(fault.as_ref(), Instant::now()) {
                return Some(Ok(event));
            }
            let Some(events) = &mut self.events else {
                if self.queue.waiting.is_empty() {
                    return None;
                }
                tokio::time::sleep(TICK).await;
                continue;
            };
            match tokio::time::timeout(TICK, events.next()).await {
                Err(_) => {}
                Ok(None) => self.events = None,
                Ok(Some(Err(error))) => return Some(Err(error)),
                Ok(Some(Ok(bytes))) => {
                    self.partial.extend_from_slice(&bytes);
                    while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                        let line = self.partial.split_to(end + 1).freeze();
                        self.queue.take(line, fault.as_ref(), Instant::now());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(uid: &str, version: u32) -> Bytes {
        format!(
            "{}\n",
            serde_json::json!({"type": "MODIFIED", "object": {"metadata": {"uid": uid, "resourceVersion": version}}})
        )
        .into()
    }

    /// What comes out when these go in under one rule, at once and much later.
    fn delivered(fault: Fault, events: &[Bytes]) -> (Vec<Bytes>, Vec<Bytes>) {
        let now = Instant::now();
        let fault = Some((fault, now));
        let mut queue = Queue::default();
        for event in events {
            queue.take(event.clone(), fault.as_ref(), now);
        }
        let mut all = |at| std::iter::from_fn(|| queue.give(fault.as_ref(), at)).collect::<Vec<_>>();
        let early = all(now);
        (early, all(now + Duration::from_mins(1)))
    }

    #[test]
    fn events_wait_double_change_places_or_vanish_as_the_rule_says() {
        let (a1, a2, b1) = (event("a", 1), event("a", 2), event("b", 1));
        let all = [a1.clone(), a2.clone(), b1.clone()];
        assert_eq!(delivered(Fault::Freeze { seconds: 30 }, &all), (vec![], all.to_vec()));
        assert_eq!(delivered(Fault::Behind { millis: 700 }, &all), (vec![], all.to_vec()));
        let twice: Vec<Bytes> = all.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
        assert_eq!(delivered(Fault::Duplicate, &all), (twice, vec![]));
        assert_eq!(delivered(Fault::Skip { every: 2 }, &all), (vec![a1.clone(), b1.clone()], vec![]));
        // What is known of an object is what was true before its last change; of the others, nothing new yet.
        let (early, late) = delivered(Fault::OneBehind { millis: 700 }, &all);
        assert_eq!((early, late), (vec![a1.clone()], vec![a2.clone(), b1.clone()]));
        // Two events of one object never change places: no server sends them so.
        let (early, late) = delivered(Fault::Swap, &all);
        assert_eq!([early, late].concat(), [a1, b1, a2]);
    }
}
