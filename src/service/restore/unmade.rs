//! A restore that was admitted, and whose operation the API server does not let in. While such a restore lives it is announced, and
//! no backup and no upgrade begins: that wait has an end too.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::decide::Refused;
use crate::adapter::kubernetes::client::RequestError;

/// How long a refusal may last: as long as something missing is waited for before a restore is admitted.
const PATIENCE: Duration = Duration::from_secs(super::decide::admit::GRACE.num_seconds().unsigned_abs());

/// Since when the operation of a restore is refused, by the restore's UID and our own steady clock.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, Instant>>);

impl Refusals {
    /// For how long it is refused by now.
    pub fn lasting(&self, restore_uid: &str, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.duration_since(*all.entry(restore_uid.to_owned()).or_insert(now))
    }

    /// It is refused no more, or not asked for any more.
    pub fn forget(&self, restore_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(restore_uid);
    }
}

/// What becomes of the restore.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmade {
    /// The operation may be let in yet: why it is not.
    Wait(String),
    End(Refused),
}

/// Whether the API server understood and said no. Of anything else the next try may know more at once.
pub fn is_refused(error: &RequestError) -> bool {
    // Who we are it may have to learn again, and the others are about the moment.
    error.is_refusal() && !matches!(error.code(), Some(401 | 409 | 429))
}

/// Of a refusal that has lasted so long. A quota may have room again and a webhook come back; an object that is no valid one stays so.
pub fn judge(operation: &str, error: &RequestError, lasting: Duration) -> Unmade {
    let said = format!("the API server refuses OpenBaoOperation {operation}, which is to do the work: {error}");
    if error.is_invalid() {
        let remedy = "Nothing was changed; correct the restore's spec and create another one";
        return Unmade::End(Refused::new("OperationRefused", format!("{said}. {remedy}")));
    }
    if lasting >= PATIENCE {
        let seconds = PATIENCE.as_secs();
        let remedy = "Nothing was changed; remove what stands in the way and create another restore";
        return Unmade::End(Refused::new("OperationRefused", format!("{said} (waited {seconds} s). {remedy}")));
    }
    Unmade::Wait(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, said: &str, reason: &str) -> RequestError {
        let status = kube::core::Status::failure(said, reason).with_code(code);
        RequestError::from(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn an_operation_that_can_never_be_made_ends_the_restore_in_the_api_servers_words() {
        let said = "spec.intent: Too long: may not be more than 1024 bytes";
        let error = refusal(422, said, "Invalid");
        assert!(is_refused(&error));
        let Unmade::End(why) = judge("r-restore-1", &error, Duration::ZERO) else { panic!("it waits") };
        assert!(why.message.contains(said) && why.message.contains("r-restore-1"), "{}", why.message);
    }

    #[test]
    fn an_operation_that_is_not_let_in_is_waited_for_one_minute_in_the_api_servers_words_and_no_longer() {
        let said = "exceeded quota: records, requested: count/openbaooperations.openbao.org=1";
        let error = refusal(403, said, "Forbidden");
        assert!(is_refused(&error) && is_refused(&refusal(400, "denied the request: not today", "BadRequest")));
        let Unmade::Wait(message) = judge("r-restore-1", &error, Duration::from_secs(59)) else { panic!("it ends") };
        assert!(message.contains(said) && message.contains("r-restore-1"), "{message}");
        let Unmade::End(why) = judge("r-restore-1", &error, PATIENCE) else { panic!("it waits for ever") };
        assert_eq!(why.reason, "OperationRefused");
        assert!(why.message.contains(said) && why.message.contains("waited 60 s"), "{}", why.message);
    }

    #[test]
    fn what_only_failed_is_no_refusal_and_starts_no_clock() {
        for code in [401, 409, 429, 500, 503] {
            assert!(!is_refused(&refusal(code, "later", "Later")), "{code}");
        }
        assert!(!is_refused(&RequestError::TimedOut));
        let refusals = Refusals::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(70);
        assert_eq!(refusals.lasting("r", now), Duration::ZERO);
        assert_eq!(refusals.lasting("r", later), Duration::from_secs(70));
        assert_eq!(refusals.lasting("s", later), Duration::ZERO, "each restore for itself");
        refusals.forget("r");
        assert_eq!(refusals.lasting("r", later), Duration::ZERO);
    }
}
