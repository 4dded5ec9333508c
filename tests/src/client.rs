//! A client of the API that shares no line with ours: HTTP/1.1 over TLS, lists and watches as client-go does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::board::Board;

/// Where a board's API is, and the administrator's credentials.
#[derive(Clone)]
pub struct Client {
    netns: PathBuf,
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// One kept connection.
pub struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
}

impl Client {
    /// Reads the board's kubeconfig.
    ///
    /// # Panics
    /// It is not there or not whole.
    #[must_use]
    pub fn of(board: &Board) -> Self {
        let text = fs::read_to_string(board.dir().join("data/admin.kubeconfig")).expect("a kubeconfig");
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in the kubeconfig")).trim_start_matches(':').trim().to_owned()
        };
        let decoded = |name: &str| BASE64_STANDARD.decode(field(name)).expect("base64");
        let certificates = |pem: &[u8]| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(pem).map(|it| it.expect("a certificate")).collect()
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&decoded("certificate-authority-data")) {
            roots.add(authority).expect("an authority");
        }
        let key = PrivateKeyDer::from_pem_slice(&decoded("client-key-data")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&decoded("client-certificate-data")), key)
            .expect("a client certificate");
        let address = field("server").trim_start_matches("https://").parse().expect("an address");
        Self { netns: PathBuf::from("/run/netns").join(board.netns()), address, config: Arc::new(config) }
    }

    /// One that only makes plain connections ([`Self::reach`]), from inside a network namespace.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn plain(netns: PathBuf) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            builder.expect("TLS 1.2 and 1.3").with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Self { netns, address: SocketAddr::from(([127, 0, 0, 1], 6443)), config: Arc::new(config) }
    }

    /// Connects from inside the board's network namespace.
    ///
    /// # Errors
    /// The network's.
    pub fn connect(&self) -> Result<Connection> {
        let stream = self.within(TcpStream::connect)?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let session = ClientConnection::new(self.config.clone(), name).map_err(Error::other)?;
        let stream = BufReader::new(StreamOwned::new(session, stream));
        Ok(Connection { stream, host: self.address.to_string() })
    }

    /// A plain connection to another address of the namespace.
    ///
    /// # Errors
    /// The network's.
    pub fn reach(&self, address: SocketAddr) -> Result<TcpStream> {
        Self { address, ..self.clone() }.within(TcpStream::connect)
    }

    fn within(&self, connect: fn(SocketAddr) -> Result<TcpStream>) -> Result<TcpStream> {
        let (netns, address) = (fs::File::open(&self.netns)?, self.address);
        // A thread of its own, because a namespace belongs to a thread.
        let thread = std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&netns),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            connect(address)
        });
        thread.join().map_err(|_| Error::other("the connecting thread panicked"))?
    }

    /// One request on a connection of its own; `None` while nobody answers.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, value) = self.connect().ok()?.call("GET", path, None).ok()?;
        (status == 200).then_some(value)
    }
}

impl Connection {
    /// One request and its whole answer.
    ///
    /// # Errors
    /// The connection broke.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let (status, length) = self.send(method, path, body)?;
        let mut bytes = Vec::new();
        match length {
            Some(length) => {
                bytes.resize(length, 0);
                self.stream.read_exact(&mut bytes)?;
            }
            None => while self.chunk(&mut bytes)? {},
        }
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// A read that waits longer fails.
    ///
    /// # Errors
    /// The socket's.
    pub fn give_up_after(&self, time: std::time::Duration) -> Result<()> {
        self.stream.get_ref().sock.set_read_timeout(Some(time))
    }

    /// Watches until `take` is answered with false or the watch ends; `begun` is called when the server has agreed to it.
    ///
    /// # Errors
    /// The connection broke, or the watch is refused.
    pub fn watch(&mut self, path: &str, begun: impl FnOnce(), mut take: impl FnMut(&Value) -> bool) -> Result<()> {
        let (status, length) = self.send("GET", path, None)?;
        if status != 200 || length.is_some() {
            return Err(Error::other(format!("not watched: {status}")));
        }
        begun();
        let mut bytes = Vec::new();
        loop {
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                if !take(&serde_json::from_slice(&line).map_err(Error::other)?) {
                    return Ok(());
                }
            }
            if !self.chunk(&mut bytes)? {
                return Ok(());
            }
        }
    }

    /// Sends a request and reads the head of its answer: status, and length unless it comes in chunks.
    fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Option<usize>)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        stream.flush()?;
        let mut status = 0;
        let mut length = Some(0);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, length));
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
            }
            match line.to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("transfer-encoding", "chunked")) => length = None,
                _ => {}
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Appends one chunk; false after the last.
    fn chunk(&mut self, into: &mut Vec<u8>) -> Result<bool> {
        let size = usize::from_str_radix(&self.line()?, 16).map_err(Error::other)?;
        let start = into.len();
        into.resize(start + size, 0);
        self.stream.read_exact(&mut into[start..])?;
        let _ = self.line()?;
        Ok(size > 0)
    }

    fn socket(&self) -> Result<TcpStream> {
        self.stream.get_ref().sock.try_clone()
    }
}

/// Lists and watches one collection as client-go's reflector does, through any number of broken connections.
pub struct Follower {
    shared: Arc<Shared>,
    thread: JoinHandle<Story>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    socket: Mutex<Option<TcpStream>>,
}

/// What a follower has seen.
#[derive(Debug, Default)]
pub struct Story {
    /// The objects as they are now, by uid.
    pub objects: BTreeMap<String, Value>,
    /// Every state of every object in order, by uid.
    pub states: BTreeMap<String, Vec<Value>>,
    /// Watches that went on where the former one broke off.
    pub resumed: u32,
    /// Lists.
    pub listed: u32,
    /// Why lists and watches broke off.
    pub troubles: Vec<String>,
    /// What no client should see: a revision that goes backwards.
    pub wrong: Vec<String>,
}

/// Between two tries to connect; client-go's first pause is longer.
const RETRY: Duration = Duration::from_millis(50);

impl Follower {
    /// Begins with a list.
    #[must_use]
    pub fn start(client: Client, path: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (path, held) = (path.to_owned(), shared.clone());
        let thread = std::thread::spawn(move || {
            let mut story = Story::default();
            let mut revision = None;
            while !held.stop.load(Ordering::SeqCst) {
                if let Err(error) = story.round(&client, &path, &mut revision, &held) {
                    story.troubles.push(format!("at {revision:?}: {error}"));
                    std::thread::sleep(RETRY);
                }
            }
            story
        });
        Self { shared, thread }
    }

    /// What it has seen until now.
    ///
    /// # Panics
    /// It panicked.
    #[must_use]
    pub fn end(self) -> Story {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(socket) = self.shared.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.thread.join().expect("the follower runs through")
    }
}

impl Story {
    fn round(&mut self, client: &Client, path: &str, revision: &mut Option<u64>, shared: &Shared) -> Result<()> {
        let mut connection = client.connect()?;
        *shared.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.socket()?);
        if revision.is_none() {
            let (status, list) = connection.call("GET", path, None)?;
            if status != 200 {
                return Err(Error::other("not listed"));
            }
            self.listed += 1;
            self.objects.clear();
            for item in list["items"].as_array().into_iter().flatten() {
                self.put(item);
            }
            *revision = number(&list);
        } else {
            self.resumed += 1;
        }
        let from = revision.unwrap_or(0);
        let query = format!("{path}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
        let (status, length) = connection.send("GET", &query, None)?;
        if status != 200 {
            if status == 410 {
                *revision = None;
            }
            return Err(Error::other("not watched"));
        }
        // A watch that is over before it began has a length.
        let mut bytes = vec![0; length.unwrap_or(0)];
        connection.stream.read_exact(&mut bytes)?;
        loop {
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).map_err(Error::other)?;
                self.take(&event, revision)?;
            }
            if length.is_some() || !connection.chunk(&mut bytes)? {
                return Ok(());
            }
        }
    }

    fn take(&mut self, event: &Value, revision: &mut Option<u64>) -> Result<()> {
        let object = &event["object"];
        if event["type"] == "ERROR" {
            *revision = None;
            return Err(Error::other("expired"));
        }
        let (seen, now) = (*revision, number(object));
        if now < seen {
            self.wrong.push(format!("{now:?} after {seen:?}: {}", object["metadata"]["name"]));
        }
        *revision = now.or(seen);
        match event["type"].as_str() {
            Some("DELETED") => {
                self.objects.remove(&uid(object));
            }
            Some("BOOKMARK") => {}
            _ => self.put(object),
        }
        Ok(())
    }

    fn put(&mut self, object: &Value) {
        self.states.entry(uid(object)).or_default().push(object.clone());
        self.objects.insert(uid(object), object.clone());
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn number(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}
