//! Why a server's container does not come up and will not by waiting, in the kubelet's words and the server's own. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Reasons for which waiting alone changes nothing. A first failed pull is not among them: the kubelet tries again at once,
/// and calls it a back-off when that fails too.
const HOPELESS: [&str; 5] =
    ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CrashLoopBackOff", "CreateContainerConfigError"];

/// One crash may be an accident of its surroundings; a server that dies again and again will go on dying.
const CRASHES: i32 = 2;

/// How much of the server's last words is repeated: the end says why.
const WORDS: usize = 600;

/// The reason and what is known about it; `None` while there is hope.
pub fn trouble(pod: &Pod) -> Option<(String, String)> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find_map(of_container)
}

fn of_container(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| HOPELESS.contains(&reason.as_str()))?;
    if reason == "CrashLoopBackOff" && container.restart_count < CRASHES {
        return None;
    }
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let said = last.and_then(|last| {
        let words = last.message.as_deref().map(str::trim).filter(|words| !words.is_empty())?;
        Some(format!("it ended with code {} and its last words were: {}", last.exit_code, end_of(words)))
    });
    Some((reason, said.or_else(|| waiting.message.clone()).unwrap_or_default()))
}

/// The last lines, in one.
pub fn end_of(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(WORDS);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "kelp-1"}, "status": {"containerStatuses": [status]}}))
            .unwrap()
    }

    fn waiting(reason: &str, restarts: i32) -> serde_json::Value {
        json!({"name": "openbao", "ready": false, "image": "", "imageID": "", "restartCount": restarts,
            "state": {"waiting": {"reason": reason, "message": "the kubelet's words"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "starting\nError parsing config\n"}}})
    }

    #[test]
    fn a_server_that_dies_again_and_again_is_quoted_and_one_that_died_once_is_not_given_up() {
        assert_eq!(trouble(&pod(&waiting("CrashLoopBackOff", 1))), None);
        let (reason, words) = trouble(&pod(&waiting("CrashLoopBackOff", 2))).unwrap();
        assert_eq!(reason, "CrashLoopBackOff");
        assert_eq!(words, "it ended with code 1 and its last words were: starting Error parsing config");
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_told_in_the_kubelets_words() {
        let mut status = waiting("ImagePullBackOff", 0);
        status["lastState"] = json!({});
        assert_eq!(trouble(&pod(&status)), Some(("ImagePullBackOff".into(), "the kubelet's words".into())));
        assert_eq!(trouble(&pod(&waiting("ErrImagePull", 0))), None, "it is tried again at once");
        assert_eq!(trouble(&pod(&waiting("ContainerCreating", 0))), None);
    }

    #[test]
    fn of_long_last_words_the_end_is_repeated() {
        let words = format!("{} the reason", "x".repeat(2000));
        let end = end_of(&words);
        assert!(end.ends_with(" the reason") && end.chars().count() == WORDS);
    }
}
