//! A cluster of real processes, run by the tool: three memory nodes, one of them the coordinator, and an application that is killed
//! and starts again on another machine.

use bartender::{Cluster, Coordinator, Error, Heap, PMutex, Replicated};
use bartender_dist::RemoteCoordinator;
use bartender_net::tls::Identity;
use bartender_net::{TcpFabric, TcpOptions};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// After this it will not happen any more.
const LONG: Duration = Duration::from_secs(120);

fn tool() -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_bartender"));
    tool.env_remove("BARTENDER_LOG").stdin(Stdio::null());
    tool
}

/// Runs the tool to its end.
fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    tool().args(args).output().expect("the tool starts")
}

fn out(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Setup {
    folder: PathBuf,
    coordinator: String,
}

impl Setup {
    fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default()
    }

    fn issue(&self, name: &str, role: &str) -> Output {
        let authority = self.folder.join("authority");
        tool()
            .args(["cert", "issue", name, "--role", role, "--authority"])
            .arg(authority)
            .arg("--out")
            .arg(self.keys())
            .output()
            .expect("the tool starts")
    }

    fn node(&self, name: &str, secure: bool, metrics: &str) -> Running {
        let mut node = tool();
        node.args(["node", "--name", name, "--cluster", "test"])
            .args(["--listen", "127.0.0.1:0", "--lease", "1000"])
            .args(["--metrics", metrics, "--data"])
            .arg(self.folder.join(name));
        if secure {
            node.arg("--identity").arg(self.keys());
        } else {
            node.arg("--insecure");
        }
        let word = match name {
            "n1" => "--serve-coordinator",
            _ => "--coordinator",
        };
        let log = File::create(self.folder.join(format!("{name}.log"))).expect("a log");
        node.args([word, &self.coordinator]).stderr(log);
        Running(node.spawn().expect("the tool starts"))
    }

    fn cluster(&self, words: &[&str]) -> Output {
        tool()
            .args(["cluster", "--cluster", "test", "--name", "ops"])
            .args([
                "--coordinator",
                &format!("n1@{}", self.coordinator),
                "--identity",
            ])
            .arg(self.keys())
            .args(words)
            .output()
            .expect("the tool starts")
    }

    /// Waits until the cluster is so, by its own account.
    fn until(&self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let asked = self.cluster(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
            if asked.status.success() && so(&status) {
                return status;
            }
            let said = String::from_utf8_lossy(&asked.stderr);
            assert!(start.elapsed() < LONG, "never {what}: {status:#} {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn application(
        &self,
        name: &str,
        replicas: bool,
    ) -> (Running, BufReader<std::process::ChildStdout>) {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "application", "--nocapture", "--test-threads=1"])
            .env("BARTENDER_CLI_MEMBER", name)
            .env("BARTENDER_CLI_FOLDER", &self.folder)
            .env("BARTENDER_CLI_COORDINATOR", &self.coordinator)
            .env("BARTENDER_CLI_CREATE", if replicas { "yes" } else { "" })
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        (Running(child), said)
    }
}

fn member(
    name: &str,
    folder: &Path,
    coordinator: String,
    create: bool,
) -> Result<Replicated<PMutex<u64>>, Error> {
    let file = |what: String| folder.join("keys").join(what);
    let (pem, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
    let identity = Identity::load(&pem, &key, &file("authority.pem".into())).expect("issued");
    let data = folder.join(name);
    std::fs::create_dir_all(&data).expect("a folder");
    let cluster = Cluster::options(name, "test")
        .data(data)
        .identity(identity.clone())
        .lease(Duration::from_millis(1000))
        .max_size(64 << 20)
        .log_size(4 << 20)
        .join(|| async move {
            let handle = tokio::runtime::Handle::current();
            let fabric = TcpFabric::secure(handle, &identity, TcpOptions::default())?;
            let remote = RemoteCoordinator::new(Arc::new(fabric), coordinator);
            Ok(Arc::new(remote) as Arc<dyn Coordinator>)
        })?;
    let mut options = Heap::<PMutex<u64>>::options();
    if create {
        options = options.replicas([name, "n1", "n2", "n3"]);
    }
    options.open_in(&cluster, "words")
}

/// An application as a process: says what it found, and each number that was answered. It is killed.
#[test]
fn application() {
    let Ok(name) = std::env::var("BARTENDER_CLI_MEMBER") else {
        return;
    };
    let variable = |name| std::env::var(name).expect("the parent says it");
    let folder = PathBuf::from(variable("BARTENDER_CLI_FOLDER"));
    let create = !variable("BARTENDER_CLI_CREATE").is_empty();
    let coordinator = variable("BARTENDER_CLI_COORDINATOR");
    let heap = member(&name, &folder, coordinator, create).expect("its turn");
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nfound {}", *heap.read()).expect("the parent reads");
    loop {
        let done = heap.update(|mut number| {
            let next = *number + 1;
            number.set(next)?;
            Ok(next)
        });
        let done = done.expect("it is the primary");
        writeln!(out, "answered {done}").expect("the parent reads");
        out.flush().expect("the parent reads");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The next number after `word`.
fn hear(said: &mut impl BufRead, word: &str) -> u64 {
    let mut line = String::new();
    while said.read_line(&mut line).expect("text") > 0 {
        if let Some(number) = line.trim().strip_prefix(word) {
            return number.trim().parse().expect("a number");
        }
        line.clear();
    }
    panic!("the application has ended before it said `{word}`");
}

fn scrape(address: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let asked = stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n");
        let _ = asked.and_then(|()| stream.read_to_string(&mut text));
    }
    text
}

/// The names in the table of `bartender_dist::metrics`.
fn documented() -> Vec<&'static str> {
    let page = include_str!("../../bartender-dist/src/metrics.rs");
    let rows = page.lines().filter_map(|l| l.strip_prefix("//! | `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

fn region(status: &Value) -> &Value {
    &status["regions"][0]
}

#[test]
fn what_an_application_left_on_memory_nodes_is_found_by_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup {
        folder: folder.path().to_owned(),
        coordinator: free_port(),
    };
    let authority = setup.folder.join("authority");
    out(&run([
        "cert".as_ref(),
        "authority".as_ref(),
        authority.as_os_str(),
    ]));
    for name in NODES.into_iter().chain(["app", "app2"]) {
        out(&setup.issue(name, "reader+writer+node"));
    }
    out(&setup.issue("ops", "reader+writer"));
    // Keys are their owner's only, and nothing is overwritten.
    let again = setup.issue("app", "reader");
    assert!(!again.status.success() && !again.stderr.is_empty());
    let key = std::fs::metadata(setup.keys().join("app.key")).expect("written");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(key.permissions().mode() & 0o777, 0o600);

    let ports = NODES.map(|_| free_port());
    let mut nodes: Vec<Running> = NODES
        .iter()
        .zip(&ports)
        .map(|(name, port)| setup.node(name, true, port))
        .collect();
    setup.until("three members", |status| {
        status["members"].as_array().is_some_and(|m| m.len() == 3)
    });

    let (mut app, mut said) = setup.application("app", true);
    assert_eq!(hear(&mut said, "found"), 0);
    let all = |status: &Value| {
        let in_sync = region(status)["record"]["in_sync"].as_array();
        in_sync.is_some_and(|names| names.len() == 4)
    };
    // Somebody has to read, or the application would wait.
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        let mut line = String::new();
        while said.read_line(&mut line).is_ok_and(|n| n > 0) {
            let number = line.trim().strip_prefix("answered ");
            last = number.and_then(|n| n.parse().ok()).unwrap_or(last);
            line.clear();
        }
        last
    });
    setup.until("all in sync", all);
    let table = out(&setup.cluster(&["status"]));
    let up = |name| move |line: &str| line.starts_with(name) && line.ends_with("up");
    assert!(
        ["n1", "n2", "n3"]
            .iter()
            .all(|name| table.lines().any(up(*name))),
        "{table}"
    );
    assert!(table.starts_with("REGION"), "{table}");
    let row = |name: &str, state: &str| {
        let fits =
            |line: &str| line.starts_with("words") && line.contains(name) && line.contains(state);
        assert!(table.lines().any(fits), "{name} {state}: {table}");
    };
    row("app", "primary");
    NODES.iter().for_each(|name| row(name, "in sync"));
    out(&setup.cluster(&["policy", "words", "degrade"]));
    std::thread::sleep(Duration::from_millis(500));

    // SIGKILL, under load.
    app.0.kill().expect("it runs");
    app.0.wait().expect("killed");
    let answered: u64 = reader.join().expect("no panic");
    assert!(answered > 0);
    setup.until("kept", |status| {
        let reigning = region(status)["reigning"].as_str();
        reigning.is_some_and(|name| NODES.contains(&name))
    });
    let start = Instant::now();
    loop {
        let text: String = ports.iter().map(|port| scrape(port)).collect();
        let missing: Vec<_> = documented()
            .into_iter()
            .filter(|name| !text.contains(name))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(start.elapsed() < LONG, "no {missing:?} in {text}");
        std::thread::sleep(Duration::from_millis(200));
    }

    // Another machine, with nothing on it, in the place of the dead one.
    let words = ["replicas", "words", "--add", "app2", "--remove", "app"];
    out(&setup.cluster(&words));
    let (app2, mut said) = setup.application("app2", false);
    let found = hear(&mut said, "found");
    assert!(
        found >= answered,
        "{answered} was answered, {found} is there"
    );
    assert_eq!(hear(&mut said, "answered"), found + 1);
    // What makes no sense is refused, with a word on what to do.
    let refused = setup.cluster(&["replicas", "words", "--remove", "app2"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("primary"),
        "{why}"
    );
    let unknown = setup.cluster(&["policy", "numbers", "block"]);
    assert!(!unknown.status.success());

    // Without a certificate nobody is let in, and that is logged.
    let stranger = setup.node("n4", false, &free_port());
    let start = Instant::now();
    while !setup.log("n1").contains("turned away") {
        assert!(start.elapsed() < LONG, "{}", setup.log("n1"));
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(stranger);
    // Whoever reads has had enough at once.
    let mut piped = tool();
    piped
        .args(["cluster", "--cluster", "test", "--name", "ops"])
        .args(["--coordinator", &setup.coordinator, "--identity"])
        .arg(setup.keys())
        .args(["status", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut piped = piped.spawn().expect("the tool starts");
    drop(piped.stdout.take());
    let ended = piped.wait_with_output().expect("it ends");
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && !why.contains("panicked"), "{why}");

    drop(app2);
    // The coordinator last.
    for (name, node) in NODES.iter().zip(&mut nodes).rev() {
        let id = node.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.expect("kill starts").success());
        let status = node.0.wait().expect("it ends");
        assert!(status.success(), "{name}: {status}: {}", setup.log(name));
    }
}
