//! moto's S3 server inside a board's network namespace, over TLS, with one user whose signatures it checks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{CertificateParams, KeyPair};

use crate::board::Board;
use crate::host::{need, output, succeed};

/// The bucket that is there.
pub const BUCKET: &str = "backups";
const HOST: &str = "127.0.0.1:9000";
/// So many requests are let in unsigned at first: user, key, policy, bucket.
const UNSIGNED: &str = "4";
/// What moto tells services apart by, where no host name does.
const SCOPE: &str = "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, \
                     SignedHeaders=host, Signature=x";

/// moto's server looks at signatures over the query as it has decoded it; clients sign it as they send it.
const LAUNCH: &str = "
import sys, moto.server, moto.iam.access_control as control
from urllib.parse import parse_qsl, quote
decoded = control.IAMRequestBase._create_aws_request
def as_sent(self):
    request = decoded(self)
    path, mark, query = request.url.partition('?')
    pairs = parse_qsl(query, keep_blank_values=True)
    request.url = path + mark + '&'.join(quote(k, safe='~') + '=' + quote(v, safe='~') for k, v in pairs)
    return request
control.IAMRequestBase._create_aws_request = as_sent
moto.server.main(sys.argv[1:])
";

/// A running server. Dropping it ends it; its files lie in the board's directory. It borrows nothing of the board, which is
/// started and stopped meanwhile.
pub struct BucketServer {
    netns: String,
    dir: PathBuf,
    child: Child,
    secret: String,
}

impl BucketServer {
    /// Starts one and makes user and bucket.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(board: &Board) -> Self {
        need("curl", "curl");
        let dir = board.dir().join("s3");
        fs::create_dir_all(&dir).expect("a directory");
        let (key, certificate) = (dir.join("key.pem"), dir.join("ca.pem"));
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let pair = KeyPair::generate().expect("a key");
        fs::write(&certificate, params.self_signed(&pair).expect("a certificate").pem()).expect("written");
        fs::write(&key, pair.serialize_pem()).expect("written");
        let log = || File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let mut serve = board.command("python3");
        serve.args(["-c", LAUNCH, "-H", "127.0.0.1", "-p", "9000", "-s", "-c"]).arg(&certificate);
        serve.arg("-k").arg(&key).env("PYTHONPATH", tools()).env("INITIAL_NO_AUTH_ACTION_COUNT", UNSIGNED);
        let child = serve.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("python3 starts");
        let mut server = Self { netns: board.netns().to_owned(), dir, child, secret: String::new() };
        board.eventually("the bucket's server takes connections", 60, || {
            let probe =
                output(board.command("bash").args(["-c", &format!("exec 3<>/dev/tcp/{}", HOST.replace(':', "/"))]));
            probe.status.success().then_some(())
        });
        server.make_account();
        server
    }

    fn make_account(&mut self) {
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        let iam = |action: &str| {
            let form = format!("Version=2010-05-08&UserName=bramble&{action}");
            let mut curl = self.curl();
            curl.args(["-H", SCOPE, "--data", &form]);
            succeed(curl.arg(format!("https://{HOST}/")))
        };
        let _ = iam("Action=CreateUser");
        let key = iam("Action=CreateAccessKey");
        let encoded: String = policy.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let _ = iam(&format!("Action=PutUserPolicy&PolicyName=all&PolicyDocument={encoded}"));
        let _ = succeed(self.curl().args(["-X", "PUT", &format!("https://{HOST}/{BUCKET}")]));
        let part = |name: &str| {
            let (_, rest) = key.split_once(&format!("<{name}>")).expect("an access key");
            rest.split_once('<').expect("its end").0.to_owned()
        };
        self.secret = part("SecretAccessKey");
        self.write_credentials(&part("AccessKeyId"), &self.secret);
    }

    fn write_credentials(&self, id: &str, secret: &str) {
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        fs::write(self.credentials(), text).expect("written");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    fn curl(&self) -> Command {
        let mut curl = self.command("curl");
        curl.args(["-sSf", "--max-time", "30", "--cacert"]).arg(self.authority());
        curl
    }

    /// Puts another secret into the credentials, of the same key.
    ///
    /// # Panics
    /// There are no credentials.
    pub fn spoil_secret(&self) {
        let text = fs::read_to_string(self.credentials()).expect("credentials");
        fs::write(self.credentials(), text.replace(&self.secret, "not-the-secret")).expect("written");
    }

    /// What nobody may print.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// A folder in the bucket, as a URL.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("https://{HOST}/{BUCKET}/{prefix}")
    }

    /// The keys, as the AWS tools keep them.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.dir.join("credentials")
    }

    /// Who signed its certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// What Amazon's own Python client says: `script` has a `client`, and prints.
    #[must_use]
    pub fn boto3(&self, script: &str) -> String {
        let begin = format!(
            "import boto3\nclient = boto3.client('s3', endpoint_url='https://{HOST}', region_name='us-east-1')\n{script}"
        );
        let mut python = self.command("python3");
        python.arg("-c").arg(begin).env("PYTHONPATH", tools()).env("AWS_SHARED_CREDENTIALS_FILE", self.credentials());
        succeed(python.env("AWS_CA_BUNDLE", self.authority()))
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the bucket's last words, the last first:\n{}", last.join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `.ci/tools` puts moto.
fn tools() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/moto");
    assert!(path.is_dir(), "{} is missing: run .ci/tools", path.display());
    path
}
