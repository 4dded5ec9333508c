use bytes::Bytes;

use super::super::fakes::FakeTransport;
use super::*;

#[tokio::test(start_paused = true)]
async fn it_lists_watches_resumes_and_lists_again_when_the_history_is_gone() {
    let mut step = 0;
    let transport = FakeTransport::new(move |_, _, _| {
        step += 1;
        let text = |text: &str| vec![Bytes::copy_from_slice(text.as_bytes())];
        match step {
            1 => (
                200,
                text(
                    r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5","continue":"t"},"items":[{"metadata":{"name":"a"}}]}"#,
                ),
            ),
            2 => (
                200,
                text(
                    r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"b"}}]}"#,
                ),
            ),
            3 => {
                let (first, second) = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"6"}}}
{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}
"#
                .split_at(40);
                (200, vec![Bytes::from_static(first.as_bytes()), Bytes::from_static(second.as_bytes())])
            }
            4 => (200, text("{\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\"}}\n")),
            5 => (200, text(r#"{"kind":"PodList","metadata":{"resourceVersion":"12"},"items":[]}"#)),
            _ => (503, text("")),
        }
    });
    let link = Link::new(transport.clone());
    let mut reflection = link.reflect(Interest::named("/api/v1/pods", "a b"));
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(match reflection.next().await {
            Delta::Restarted => "restarted".to_owned(),
            Delta::Synced => "synced".to_owned(),
            Delta::Applied(object) => format!("+{}", object.identity().name),
            Delta::Deleted(object) => format!("-{}", object.identity().name),
        });
    }
    assert_eq!(seen, ["restarted", "+a", "+b", "synced", "-a", "restarted", "synced"]);
    let asked = transport.asked.lock().unwrap().clone();
    assert_eq!(asked[0], "GET /api/v1/pods?fieldSelector=metadata.name%3Da%20b&limit=100");
    assert!(asked[1].ends_with("&continue=t"), "{}", asked[1]);
    assert!(asked[2].contains("resourceVersion=5&"), "{}", asked[2]);
    assert!(asked[3].contains("resourceVersion=9&"), "a bookmark moves the version: {}", asked[3]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_the_server_does_not_have_is_empty_until_it_has_it() {
    let mut step = 0;
    let transport = FakeTransport::new(move |_, _, _| {
        step += 1;
        match step {
            1 | 2 => (404, vec![Bytes::from_static(br#"{"kind":"Status","reason":"NotFound","code":404}"#)]),
            3 => (
                200,
                vec![Bytes::from_static(
                    br#"{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a"}}]}"#,
                )],
            ),
            _ => (503, Vec::new()),
        }
    });
    let mut reflection = Link::new(transport).reflect(Interest::all("/apis/networking.k8s.io/v1/networkpolicies"));
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(match reflection.next().await {
            Delta::Restarted => "restarted",
            Delta::Synced => "synced",
            Delta::Applied(_) => "+a",
            Delta::Deleted(_) => "-a",
        });
    }
    assert_eq!(seen, ["restarted", "synced", "restarted", "+a", "synced"]);
}
