//! Pure: where on a node's kubelet a pod's logs, processes and ports are.

use crate::client::encode_query;
use crate::kinds::{Kind, Subresource};
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};

/// The kubelet's port when its node does not say.
const PORT: u16 = 10_250;

/// Names of exec's and attach's streams: in the API, at the kubelet.
const STREAMS: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
/// Parameters of logs that the kubelet takes as they are.
const LOG: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// The address and port of a node's kubelet.
pub(crate) fn of_node(node: &Object) -> Answer<(String, u16)> {
    let addresses = node.items(&["status", "addresses"]);
    let of = |kind: &str| addresses.iter().find(|one| one["type"] == kind).and_then(|one| one["address"].as_str());
    let address = of("InternalIP")
        .or_else(|| of("ExternalIP"))
        .or_else(|| of("Hostname"))
        .ok_or_else(|| ApiError::internal(format!("no preferred addresses found; known addresses: {addresses:?}")))?;
    let port = node.integer(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(PORT);
    Ok((address.to_owned(), port))
}

/// Whether the node has fallen silent: it will not open a connection either.
pub(crate) fn is_lost(node: &Object) -> bool {
    node.items(&["status", "conditions"]).iter().any(|one| one["type"] == "Ready" && one["status"] == "Unknown")
}

/// A query as `Query` reads it: parameter to its values.
pub(crate) type Values<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// The path and query on the kubelet; `None` for the logs of a pod that is nowhere yet.
pub(crate) fn of_pod(pod: &Object, sub: Subresource, values: Values<'_>) -> Answer<Option<String>> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let placed = !pod.text(&["spec", "nodeName"]).is_empty();
    if sub == Subresource::PortForward {
        require_node(name, placed)?;
        let ports: Vec<String> = values("ports").into_iter().chain(values("port")).collect();
        let query: Vec<String> = ports.iter().map(|port| format!("port={}", encode_query(port))).collect();
        return Ok(Some(with_query(format!("/portForward/{namespace}/{name}"), &query)));
    }
    let container = container(pod, values("container").into_iter().next().unwrap_or_default().as_str())?;
    if sub == Subresource::Log {
        let query = LOG.iter().flat_map(|field| {
            values(field).into_iter().take(1).map(move |value| format!("{field}={}", encode_query(&value)))
        });
        let query: Vec<String> = query.collect();
        return Ok(placed.then(|| with_query(format!("/containerLogs/{namespace}/{name}/{container}"), &query)));
    }
    require_node(name, placed)?;
    let given = |field: &str| {
        values(field).first().is_some_and(|value| matches!(value.as_str(), "" | "1" | "true" | "True" | "t"))
    };
    let mut query: Vec<String> =
        STREAMS.iter().filter(|(field, _)| given(field)).map(|(_, own)| format!("{own}=1")).collect();
    if query.is_empty() {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let verb = if sub == Subresource::Exec { "exec" } else { "attach" };
    if sub == Subresource::Exec {
        let command = values("command");
        if command.is_empty() {
            return Err(ApiError::bad_request("you must specify at least one command for the container"));
        }
        query.extend(command.iter().map(|word| format!("command={}", encode_query(word))));
    }
    Ok(Some(with_query(format!("/{verb}/{namespace}/{name}/{container}"), &query)))
}

fn require_node(name: &str, placed: bool) -> Answer<()> {
    if placed { Ok(()) } else { Err(ApiError::bad_request(format!("pod {name} does not have a host assigned"))) }
}

fn with_query(path: String, query: &[String]) -> String {
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// The container asked for, or the only one, or the one that the annotation names.
fn container(pod: &Object, asked: &str) -> Answer<String> {
    let names = |list: &str| -> Vec<&str> {
        pod.items(&["spec", list]).iter().filter_map(|container| container["name"].as_str()).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let known = |name: &str| main.iter().chain(&init).chain(&ephemeral).any(|own| *own == name);
    if !asked.is_empty() {
        return match known(asked) {
            true => Ok(asked.to_owned()),
            false => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", pod.name()))),
        };
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    if let Some(default) = pod.annotation("kubectl.kubernetes.io/default-container").filter(|name| known(name)) {
        return Ok(default.to_owned());
    }
    let mut message =
        format!("a container name must be specified for pod {}, choose one of: [{}]", pod.name(), main.join(" "));
    if !init.is_empty() {
        message += &format!(" or one of the init containers: [{}]", init.join(" "));
    }
    Err(ApiError::bad_request(message))
}

/// The node that a pod is on, as a kind's target needs it.
pub(crate) fn node_of(pod: &Object) -> &str {
    pod.text(&["spec", "nodeName"])
}

/// What a kubelet's refusal becomes: its text in a Status.
pub(crate) fn refused(kind: &Kind, name: &str, code: u16, text: &str) -> ApiError {
    match code {
        400 => ApiError::bad_request(text.trim()),
        404 => ApiError::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( {} {name}) ({})", kind.plural, text.trim()),
        ),
        _ => ApiError::internal(text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).unwrap()
    }

    fn ask(pod: &Object, sub: Subresource, query: &[(&str, &str)]) -> Answer<Option<String>> {
        let values = |name: &str| -> Vec<String> {
            query.iter().filter(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()).collect()
        };
        of_pod(pod, sub, &values)
    }

    #[test]
    fn locations() {
        let one = pod(json!({"nodeName": "pi", "containers": [{"name": "a"}]}));
        let path = |sub, query: &[(&str, &str)]| ask(&one, sub, query).unwrap().unwrap();
        assert_eq!(path(Subresource::Log, &[("follow", "true")]), "/containerLogs/default/web/a?follow=true");
        assert_eq!(
            path(Subresource::Exec, &[("command", "ls"), ("command", "-l /"), ("stdout", "true"), ("stdin", "false")]),
            "/exec/default/web/a?output=1&command=ls&command=-l%20/"
        );
        assert_eq!(path(Subresource::PortForward, &[]), "/portForward/default/web");
    }

    #[test]
    fn refusals_read_as_upstream() {
        let two = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let error = ask(&two, Subresource::Log, &[]).unwrap_err();
        assert_eq!(error.message, "a container name must be specified for pod web, choose one of: [a b]");
        let error = ask(&two, Subresource::Exec, &[("container", "c")]).unwrap_err();
        assert_eq!(error.message, "container c is not valid for pod web");
        assert_eq!(ask(&two, Subresource::Log, &[("container", "a")]).unwrap(), None);
    }
}
