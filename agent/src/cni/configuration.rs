//! Pure: what a folder of CNI configurations says, and what each plugin of one is told.

use serde_json::{Map, Value, json};

use crate::pods::{PodNetRequest, Protocol};

/// A longer file is nobody's network.
pub(super) const FILE_BYTES_MAX: usize = 256 << 10;
/// More plugins in a row than anybody chains.
const PLUGINS_MAX: usize = 32;
/// The interface that pods are given.
pub(super) const INTERFACE: &str = "eth0";
/// The versions of the specification that are spoken, the oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What upstream lets through at once where a rate is limited: the largest that the plugin takes.
const BURST: u64 = 0xffff_ffff;

/// What is asked of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Check,
    Delete,
}

impl Command {
    /// As `CNI_COMMAND` has it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Delete => "DEL",
        }
    }
}

/// A network: its plugins in their order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Configuration {
    name: String,
    version: String,
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
}

impl Configuration {
    /// Reads a list of plugins, or the older form of a single one.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("it is no JSON object")?;
        let name = text(object, "name").filter(|name| is_name(name)).ok_or("it has no valid \"name\"")?;
        let plugins: Vec<Map<String, Value>> = match object.get("plugins") {
            Some(Value::Array(plugins)) => plugins.iter().filter_map(|one| one.as_object().cloned()).collect(),
            Some(_) => return Err("\"plugins\" is no list".to_owned()),
            None => vec![object.clone()],
        };
        if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
            return Err(format!("it has {} plugins, of 1 to {PLUGINS_MAX}", plugins.len()));
        }
        if let Some(place) = plugins.iter().position(|plugin| !kind(plugin).is_some_and(is_name)) {
            return Err(format!("its plugin {} has no valid \"type\"", place + 1));
        }
        let disable_check = object.get("disableCheck").is_some_and(|value| value == true || value == "true");
        Ok(Self { name: name.to_owned(), version: version(object)?, disable_check, plugins })
    }

    /// The programs, in the order of ADD.
    pub(super) fn programs(&self) -> Vec<&str> {
        self.plugins.iter().filter_map(kind).collect()
    }

    /// In which order the plugins are called, and whether they are at all: CHECK is younger than the others.
    pub(super) fn order(&self, command: Command) -> Vec<usize> {
        let all = 0..self.plugins.len();
        match command {
            Command::Add => all.collect(),
            Command::Delete => all.rev().collect(),
            Command::Check if self.disable_check || self.is_before("0.4.0") => Vec::new(),
            Command::Check => all.collect(),
        }
    }

    /// What the plugin at this place is told. `previous` is the result of the plugin before it, or of the whole ADD.
    pub(super) fn input(
        &self,
        place: usize,
        command: Command,
        runtime: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut plugin = self.plugins[place].clone();
        plugin.insert("name".to_owned(), json!(self.name));
        plugin.insert("cniVersion".to_owned(), json!(self.version));
        let wanted = plugin.get("capabilities").and_then(Value::as_object);
        let has = |name: &String| wanted.is_some_and(|wanted| wanted.get(name) == Some(&Value::Bool(true)));
        let told: Map<String, Value> =
            runtime.iter().filter(|(name, _)| has(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
        if !told.is_empty() {
            plugin.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        let knows_previous = command == Command::Add || !self.is_before("0.4.0");
        if let Some(previous) = previous.filter(|_| knows_previous) {
            plugin.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(plugin)
    }

    /// Whether one of the plugins takes host ports; else they are ours to lead into the pod.
    pub(super) fn maps_ports(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.get("capabilities").is_some_and(|all| all["portMappings"] == true))
    }

    /// The version that results are asked in.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    fn is_before(&self, other: &str) -> bool {
        let place = |version: &str| VERSIONS.iter().position(|one| *one == version);
        place(&self.version) < place(other)
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

fn kind(plugin: &Map<String, Value>) -> Option<&str> {
    text(plugin, "type")
}

/// The highest one offered that is spoken here.
fn version(object: &Map<String, Value>) -> Result<String, String> {
    let several = object.get("cniVersions").and_then(Value::as_array);
    let mut offered: Vec<&str> = several.into_iter().flatten().filter_map(Value::as_str).collect();
    offered.extend(text(object, "cniVersion"));
    if offered.is_empty() {
        // What the specification says of files that say nothing.
        return Ok("0.1.0".to_owned());
    }
    let spoken = VERSIONS.iter().rev().find(|version| offered.contains(version));
    spoken.map(|version| (*version).to_owned()).ok_or_else(|| {
        format!("its cniVersion is {}; this runtime speaks up to {}", offered.join(", "), VERSIONS[VERSIONS.len() - 1])
    })
}

/// As the specification wants names of networks; as that of a program it is a file in a folder of plugins, and nothing outside.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.bytes().all(inner) && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Chooses among the files of a folder, by name, the first that holds a network; with it what is wrong with those before it.
pub(super) fn choose(mut files: Vec<(String, Vec<u8>)>) -> (Option<Value>, Vec<String>) {
    files.retain(|(name, _)| [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end)));
    files.sort();
    let mut wrong = Vec::new();
    for (name, bytes) in files {
        if bytes.len() > FILE_BYTES_MAX {
            wrong.push(format!("{name}: it is longer than 256 KiB"));
            continue;
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| format!("it is no JSON: {error}"));
        match value.and_then(|value| Configuration::parse(&value).map(|_| value)) {
            Ok(value) => return (Some(value), wrong),
            Err(message) => wrong.push(format!("{name}: {message}")),
        }
    }
    (None, wrong)
}

/// What plugins that can do it are told of a pod (the conventions' `portMappings` and `bandwidth`).
pub(super) fn runtime_config(pod: &PodNetRequest) -> Map<String, Value> {
    let mut told = Map::new();
    let ports: Vec<Value> = pod
        .host_ports
        .iter()
        .map(|port| {
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": ip})
        })
        .collect();
    if !ports.is_empty() {
        told.insert("portMappings".to_owned(), Value::Array(ports));
    }
    let mut bandwidth = Map::new();
    for (way, rate) in [("ingress", pod.ingress_bits_per_second), ("egress", pod.egress_bits_per_second)] {
        if let Some(rate) = rate {
            bandwidth.insert(format!("{way}Rate"), json!(rate));
            bandwidth.insert(format!("{way}Burst"), json!(BURST));
        }
    }
    if !bandwidth.is_empty() {
        told.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    told
}

/// `CNI_ARGS`, with the words that plugins for Kubernetes look for.
pub(super) fn arguments(sandbox_id: &str, pod: &PodNetRequest) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={sandbox_id};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.uid
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::HostPort;

    fn list(version: &str) -> Value {
        json!({"cniVersion": version, "name": "net", "plugins": [
            {"type": "ptp", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ]})
    }

    #[test]
    fn the_first_file_that_holds_a_network_is_taken() {
        let file = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let one = r#"{"name": "b", "type": "bridge"}"#;
        let (chosen, wrong) = choose(vec![
            file("20-b.conf", one),
            file("10-a.conflist", "{"),
            file("00-none.yaml", "x"),
            file("15-c.conflist", r#"{"name": "c", "plugins": [{"type": "../sh"}]}"#),
            file("16-d.conflist", r#"{"name": "d", "cniVersion": "9.0.0", "plugins": [{"type": "ptp"}]}"#),
        ]);
        assert_eq!(chosen.unwrap()["name"], "b");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("10-a.conflist") && wrong[1].contains("type") && wrong[2].contains("9.0.0"));
        assert_eq!(choose(Vec::new()), (None, Vec::new()));
    }

    #[test]
    fn each_plugin_is_told_what_concerns_it() {
        let network = Configuration::parse(&list("1.0.0")).unwrap();
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        let pod =
            PodNetRequest { host_ports: vec![port], ingress_bits_per_second: Some(1000), ..PodNetRequest::default() };
        let runtime = runtime_config(&pod);
        let input = |place, previous| network.input(place, Command::Add, &runtime, previous);
        let first = input(0, None);
        assert_eq!((&first["name"], &first["cniVersion"]), (&json!("net"), &json!("1.0.0")));
        assert!(first.get("runtimeConfig").is_none() && first.get("prevResult").is_none());
        let previous = json!({"ips": []});
        let second = input(1, Some(&previous));
        assert_eq!(
            second["runtimeConfig"],
            json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]})
        );
        assert_eq!((&second["prevResult"], &second["snat"]), (&json!({"ips": []}), &json!(true)));
        assert_eq!(input(2, None)["runtimeConfig"]["bandwidth"]["ingressRate"], 1000);
        assert!(network.maps_ports());
    }

    #[test]
    fn the_order_turns_round_at_the_end() {
        let network = Configuration::parse(&list("1.1.0")).unwrap();
        assert_eq!(network.order(Command::Add), [0, 1, 2]);
        assert_eq!(network.order(Command::Delete), [2, 1, 0]);
        assert_eq!(network.order(Command::Check), [0, 1, 2]);
        let old = Configuration::parse(&list("0.3.1")).unwrap();
        assert_eq!(old.order(Command::Check), [0; 0]);
        let previous = json!({});
        let told = old.input(0, Command::Delete, &Map::new(), Some(&previous));
        assert!(told.get("prevResult").is_none(), "DEL has it since 0.4.0 only");
        let mut quiet = list("1.0.0");
        quiet["disableCheck"] = json!(true);
        assert_eq!(Configuration::parse(&quiet).unwrap().order(Command::Check), [0; 0]);
        let several = json!({"cniVersions": ["0.4.0", "1.0.0", "7.0.0"], "name": "n", "type": "ptp"});
        assert_eq!(Configuration::parse(&several).unwrap().version(), "1.0.0");
    }
}
