//! Shell: carries out probes and hooks: commands, HTTP, TCP, gRPC.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bramble_runtime::ExecConfig;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{Tally, Which, first_delay_ms, grpc, http};
use crate::pods::ContainerRuntime;
use crate::pods::spec::{Container, Handler, Probe};

/// What a probe or a hook is aimed at.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) container_id: String,
    pub(crate) container: Arc<Container>,
    /// The pod's address; of the board for pods of the host's network.
    pub(crate) ip: Option<IpAddr>,
}

/// What a probe has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The verdict changed.
    Verdict(bool),
    /// One failure, for the event `Unhealthy`.
    Failure(String),
}

/// Probes for ever; tells failures and changes of the verdict. `since_ms`: how long ago the container started.
pub(crate) async fn watch(target: Target, which: Which, probe: Probe, since_ms: i64, tell: impl Fn(Outcome) + Send) {
    let first = Instant::now() + Duration::from_millis(first_delay_ms(&probe, since_ms));
    let mut ticks = interval_at(first, Duration::from_secs(u64::from(probe.period_s())));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::default();
    loop {
        ticks.tick().await;
        let result = handle(&target, &probe.handler, Duration::from_secs(u64::from(probe.timeout_s()))).await;
        if let Err(message) = &result {
            tell(Outcome::Failure(message.clone()));
        }
        if let Some(verdict) = tally.note(&probe, result.is_ok()) {
            tell(Outcome::Verdict(verdict));
            if which == Which::Startup && verdict {
                return;
            }
        }
    }
}

/// Does one thing; the error is the message as the kubelet prints it.
pub(crate) async fn handle(target: &Target, handler: &Handler, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        return command(target, exec.command.clone(), limit).await;
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds)).await;
        return Ok(());
    }
    let address = |host: &str, port: &Value| address(target, host, port);
    if let Some(action) = &handler.http_get {
        let to = address(&action.host, &action.port)?;
        return http::get(to, action, limit).await;
    }
    if let Some(action) = &handler.tcp_socket {
        let to = address(&action.host, &action.port)?;
        return match timeout(limit, TcpStream::connect(to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {to}: connect: {}", errno(&error))),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        };
    }
    if let Some(action) = &handler.grpc {
        let to = address("", &Value::from(action.port))?;
        return match timeout(limit, grpc::check(to, &action.service)).await {
            Ok(result) => result,
            Err(_) => Err(format!("timeout: health rpc did not complete within {limit:?}")),
        };
    }
    Err("no handler".to_owned())
}

async fn command(target: &Target, args: Vec<String>, limit: Duration) -> Result<(), String> {
    let (runtime, id) = (Arc::clone(&target.runtime), target.container_id.clone());
    let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let config = ExecConfig { args, timeout_ms: Some(timeout_ms), ..ExecConfig::default() };
    let ran = tokio::task::spawn_blocking(move || runtime.exec(&id, &config)).await;
    match ran {
        Ok(Ok(outcome)) if outcome.code == Some(0) => Ok(()),
        Ok(Ok(outcome)) if outcome.output.is_empty() && outcome.code == Some(137) => {
            Err(format!("command timed out after {}s", limit.as_secs()))
        }
        Ok(Ok(outcome)) => Err(outcome.output),
        Ok(Err(error)) => Err(error.chain()),
        Err(error) => Err(error.to_string()),
    }
}

fn address(target: &Target, host: &str, port: &Value) -> Result<SocketAddr, String> {
    let port = match port {
        Value::Number(number) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
        Value::String(name) => name
            .parse()
            .ok()
            .or_else(|| target.container.ports.iter().find(|port| port.name == *name).map(|port| port.container_port)),
        _ => None,
    };
    let port = port.filter(|port| *port > 0).ok_or_else(|| "invalid port number".to_owned())?;
    let ip = if host.is_empty() { target.ip } else { resolve(host) };
    ip.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| "the pod has no address".to_owned())
}

fn resolve(host: &str) -> Option<IpAddr> {
    if host == "localhost" { Some(IpAddr::from([127, 0, 0, 1])) } else { host.parse().ok() }
}

/// Go's words for the usual errors.
pub(super) fn errno(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}
