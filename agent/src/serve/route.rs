//! Pure: the kubelet's paths and queries.

use super::remote::Wanted;

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/healthz`.
    Health,
    /// `/pods`.
    Pods,
    /// `/stats/summary`.
    Summary,
    /// `/containerLogs/...`.
    Log(Target, LogQuery),
    /// `/exec/...`.
    Exec(Target, Wanted, Vec<String>),
    /// `/attach/...`.
    Attach(Target, Wanted),
    /// `/portForward/...`, and the ports that a WebSocket asks for.
    PortForward(Target, Vec<u16>),
    /// None of the kubelet's.
    Unknown,
}

/// A container, or with an empty `container` the pod's only one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
    pub(crate) container: String,
}

/// `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) since_seconds: Option<u64>,
    pub(crate) since_time: Option<String>,
    /// `Stdout` or `Stderr`; anything else is both.
    pub(crate) stream: Option<String>,
}

/// Reads a request's path and query; the message goes to the client as a bad request.
pub(crate) fn parse(path: &str, query: Option<&str>) -> Result<Route, String> {
    let query = pairs(query.unwrap_or_default());
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let wanted = || wanted(&query);
    Ok(match parts.as_slice() {
        ["healthz"] => Route::Health,
        ["pods"] => Route::Pods,
        ["stats", "summary"] => Route::Summary,
        ["containerLogs", namespace, pod, container] => {
            Route::Log(target(namespace, pod, None, container), log(&query)?)
        }
        ["exec", rest @ ..] => {
            let command = all(&query, "command");
            if command.is_empty() {
                return Err("you must specify at least 1 command".into());
            }
            Route::Exec(container(rest)?, wanted()?, command)
        }
        ["attach", rest @ ..] => Route::Attach(container(rest)?, wanted()?),
        ["portForward", namespace, pod] => Route::PortForward(target(namespace, pod, None, ""), ports(&query)?),
        ["portForward", namespace, pod, uid] => {
            Route::PortForward(target(namespace, pod, Some(uid), ""), ports(&query)?)
        }
        _ => Route::Unknown,
    })
}

fn target(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Target {
    Target { namespace: namespace.into(), pod: pod.into(), uid: uid.map(str::to_owned), container: container.into() }
}

fn container(parts: &[&str]) -> Result<Target, String> {
    match parts {
        [namespace, pod, container] => Ok(target(namespace, pod, None, container)),
        [namespace, pod, uid, container] => Ok(target(namespace, pod, Some(uid), container)),
        _ => Err("the path must be /<namespace>/<pod>[/<uid>]/<container>".into()),
    }
}

type Pairs = Vec<(String, String)>;

fn pairs(query: &str) -> Pairs {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(&value.replace('+', " "))))
        .collect()
}

fn all(query: &Pairs, name: &str) -> Vec<String> {
    query.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
}

fn first<'a>(query: &'a Pairs, name: &str) -> Option<&'a str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

fn flag(query: &Pairs, name: &str) -> bool {
    matches!(first(query, name), Some("1" | "true" | "True" | "t"))
}

/// The kubelet says `input`, the API server `stdin`; both are understood.
fn wanted(query: &Pairs) -> Result<Wanted, String> {
    let either = |kubelet, api| flag(query, kubelet) || flag(query, api);
    let wanted = Wanted {
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        stderr: either("error", "stderr"),
        tty: flag(query, "tty"),
    };
    // With a terminal there is but one output.
    let wanted = if wanted.tty { Wanted { stderr: false, ..wanted } } else { wanted };
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err("you must specify at least 1 of stdin, stdout, stderr".into());
    }
    Ok(wanted)
}

fn ports(query: &Pairs) -> Result<Vec<u16>, String> {
    let given = all(query, "port");
    let texts = given.iter().flat_map(|text| text.split(','));
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("unable to parse {text:?} as a port")),
    };
    texts.map(port).collect()
}

fn log(query: &Pairs) -> Result<LogQuery, String> {
    let number = |name: &str| {
        let value = first(query, name).filter(|value| *value != "-1");
        value.map(|value| value.parse::<u64>().map_err(|_| format!("{name}: {value:?} is no number"))).transpose()
    };
    Ok(LogQuery {
        follow: flag(query, "follow"),
        previous: flag(query, "previous"),
        timestamps: flag(query, "timestamps"),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
        since_seconds: number("sinceSeconds")?,
        since_time: first(query, "sinceTime").map(str::to_owned),
        stream: first(query, "stream").map(str::to_owned),
    })
}

/// Percent-decoding; what is no valid sequence stays as it is.
fn decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_keeps_its_words() {
        let route =
            parse("/exec/default/web/app", Some("command=sh&command=-c&command=echo+a%20b%26c&input=1&output=1"));
        let Ok(Route::Exec(target, wanted, command)) = route else { panic!("{route:?}") };
        assert_eq!(target.container, "app");
        assert_eq!(command, ["sh", "-c", "echo a b&c"]);
        assert_eq!(wanted, Wanted { stdin: true, stdout: true, stderr: false, tty: false });
    }

    #[test]
    fn a_terminal_has_one_output() {
        let route = parse("/attach/d/p/c", Some("stdin=true&stdout=true&stderr=true&tty=true"));
        assert_eq!(
            route,
            Ok(Route::Attach(
                target("d", "p", None, "c"),
                Wanted { stdin: true, stdout: true, stderr: false, tty: true }
            ))
        );
    }

    #[test]
    fn what_is_missing_is_told() {
        assert!(parse("/exec/d/p/c", Some("output=1")).is_err());
        assert!(parse("/exec/d/p/c", Some("command=ls")).is_err());
        assert!(parse("/containerLogs/d/p/c", Some("tailLines=many")).is_err());
        assert_eq!(parse("/", None), Ok(Route::Unknown));
    }

    #[test]
    fn ports_are_read() {
        let target = target("d", "p", None, "");
        assert_eq!(
            parse("/portForward/d/p", Some("port=80,81&port=82")),
            Ok(Route::PortForward(target, vec![80, 81, 82]))
        );
        assert!(parse("/portForward/d/p", Some("port=http")).is_err());
    }

    #[test]
    fn log_options_are_read() {
        let Ok(Route::Log(_, query)) = parse("/containerLogs/d/p/c", Some("follow=true&tailLines=5&sinceSeconds=60"))
        else {
            panic!()
        };
        assert!(query.follow && !query.previous);
        assert_eq!((query.tail_lines, query.since_seconds), (Some(5), Some(60)));
    }
}
