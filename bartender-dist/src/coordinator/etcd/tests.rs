//! The contract, on a real etcd server that each test starts and stops; `cargo xtask etcd-test` says where its program
//! is. Without that the tests say so and do nothing.

use super::super::contract;
use super::*;
use bartender_net::Roles;
use bartender_net::tls::{Authority, NODE_HOST};
use bytes::Bytes;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// A server of our own, in a folder of its own, on ports of its own.
struct Server {
    program: PathBuf,
    folder: tempfile::TempDir,
    ports: [u16; 2],
    secure: bool,
    child: Child,
}

impl Server {
    fn start() -> Option<Server> {
        Server::start_with(false)
    }

    /// With mutual TLS or without.
    fn start_with(secure: bool) -> Option<Server> {
        let Some(program) = std::env::var_os("BARTENDER_ETCD_SERVER") else {
            eprintln!("skipped: no etcd server; `cargo xtask etcd-test` runs this");
            return None;
        };
        let program = PathBuf::from(program);
        let folder = tempfile::tempdir().unwrap();
        // Bound together, so that they differ.
        let free = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let ports = free.each_ref().map(|l| l.local_addr().unwrap().port());
        drop(free);
        if secure {
            let day = Duration::from_secs(86_400);
            let authority = Authority::create(day).unwrap();
            for (name, roles) in [("server", Roles::NODE), ("client", Roles::WRITER)] {
                let identity = authority.issue(name, roles, day).unwrap();
                identity.save(folder.path()).unwrap();
            }
        }
        let child = spawn(&program, folder.path(), ports, secure);
        Some(Server {
            program,
            folder,
            ports,
            secure,
            child,
        })
    }

    fn stop(&mut self) {
        // Only fails if it has ended already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.program, self.folder.path(), self.ports, self.secure);
    }

    fn options(&self) -> EtcdOptions {
        let port = self.ports[0];
        if !self.secure {
            return EtcdOptions::new([format!("http://127.0.0.1:{port}")]);
        }
        EtcdOptions::new([format!("https://127.0.0.1:{port}")])
            .authority(self.file("authority.pem"))
            .host(NODE_HOST)
            .identity(self.file("client.pem"), self.file("client.key"))
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    async fn connect(&mut self) -> Etcd {
        for _ in 0..100 {
            match Etcd::connect(&self.options().limit(Duration::from_secs(2))).await {
                Ok(_) => return Etcd::connect(&self.options()).await.unwrap(),
                Err(error) => match self.child.try_wait().unwrap() {
                    Some(status) => panic!("etcd ended: {status}; {error}"),
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        }
        panic!("etcd does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(program: &Path, folder: &Path, ports: [u16; 2], secure: bool) -> Child {
    let scheme = if secure { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{}", ports[0]);
    let peer = format!("http://127.0.0.1:{}", ports[1]);
    let mut command = Command::new(program);
    if secure {
        command
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(folder.join("authority.pem"))
            .arg("--cert-file")
            .arg(folder.join("server.pem"))
            .arg("--key-file")
            .arg(folder.join("server.key"));
    }
    command
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(["--name", "test", "--logger", "zap"])
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn block_on(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn etcd_keeps_the_contract() {
    let Some(mut server) = Server::start() else {
        return;
    };
    block_on(async {
        let etcd = server.connect().await;
        contract::all(Arc::new(etcd), "t/").await;
    });
}

#[test]
fn a_watch_and_a_lease_live_through_a_restart_of_etcd() {
    let Some(mut server) = Server::start() else {
        return;
    };
    block_on(async {
        let etcd = server.connect().await;
        let lease = etcd.grant(Duration::from_secs(60)).await.unwrap();
        let put = |value: &'static str| {
            etcd.transact(vec![], vec![Change::put_bound("k", value, lease.id)])
        };
        put("1").await.unwrap();
        let before = etcd.read("k").await.unwrap();
        let mut watch = etcd.watch("k", before.revision).await.unwrap();
        put("2").await.unwrap();
        let keys = |value: &'static str| vec![("k".to_owned(), Some(Bytes::from(value)))];
        assert_eq!(watch.next().await.unwrap().keys, keys("2"));
        put("3").await.unwrap();
        let waiting = tokio::spawn(async move {
            let third = watch.next().await.unwrap();
            (third, watch.next().await.unwrap())
        });
        server.stop();
        let away = Etcd::connect(&server.options().limit(Duration::from_millis(300))).await;
        let words = away.unwrap_err().to_string();
        assert!(words.contains("127.0.0.1"), "{words}");
        server.start_again();
        drop(server.connect().await);
        assert_eq!(etcd.keep_alive(lease.id).await.unwrap(), lease.ttl);
        put("4").await.unwrap();
        let (third, fourth) = waiting.await.unwrap();
        assert_eq!((third.keys, fourth.keys), (keys("3"), keys("4")));
        assert!(before.revision < third.revision && third.revision < fourth.revision);
        etcd.revoke(lease.id).await.unwrap();
        assert!(etcd.read("k").await.unwrap().entries.is_empty());
    });
}

#[test]
fn a_watch_of_what_etcd_has_compacted_is_told() {
    let Some(mut server) = Server::start() else {
        return;
    };
    block_on(async {
        let etcd = server.connect().await;
        let mut last = 0;
        for i in 0..10 {
            let put = Change::put("k", i.to_string());
            let Transacted::Committed { revision } =
                etcd.transact(vec![], vec![put]).await.unwrap()
            else {
                panic!("refused");
            };
            last = revision;
        }
        let compacted = last - 3;
        etcd.kv()
            .compact(etcd_number(compacted), None)
            .await
            .unwrap();
        let mut watch = etcd.watch("k", 1).await.unwrap();
        for _ in 0..2 {
            let error = watch.next().await.unwrap_err();
            let Error::Compacted { asked: 1, oldest } = error else {
                panic!("{error}");
            };
            assert_eq!(oldest, compacted - 1);
        }
        // From where it says on, nothing is missing.
        let mut watch = etcd.watch("k", compacted - 1).await.unwrap();
        for revision in compacted..=last {
            assert_eq!(watch.next().await.unwrap().revision, revision);
        }
    });
}

#[test]
fn only_who_has_a_certificate_is_answered_by_an_etcd_that_wants_one() {
    let Some(mut server) = Server::start_with(true) else {
        return;
    };
    block_on(async {
        let etcd = server.connect().await;
        let put = vec![Change::put("k", "v")];
        etcd.transact(vec![], put).await.unwrap();
        assert_eq!(etcd.read("k").await.unwrap().entries[0].value, "v");
        let limit = Duration::from_secs(2);
        let mut without = server.options().limit(limit);
        without.identity = None;
        Etcd::connect(&without).await.unwrap_err();
        // Nor do we answer to a server of another authority.
        let other = Authority::create(limit).unwrap();
        let folder = tempfile::tempdir().unwrap();
        other.save(folder.path()).unwrap();
        let pem = std::fs::read(folder.path().join("authority.pem")).unwrap();
        let foreign = server.options().limit(limit).authority(pem);
        Etcd::connect(&foreign).await.unwrap_err();
    });
}
