//! Redis server that belongs to one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::sleep;

/// A `redis-server` on its own Unix socket. It is killed when this is dropped.
pub struct Redis {
    folder: PathBuf,
    process: Child,
}

impl Redis {
    /// `None` where `redis-server` cannot be started and `REQUIRE_ALL` is not set.
    pub fn start(name: &str) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("mlserve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        match Self::spawn(&folder) {
            Ok(process) => {
                let redis = Self { folder, process };
                redis.wait_until_listening();
                Some(redis)
            }
            Err(error) if std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1") => {
                panic!("redis-server cannot be started: {error}")
            }
            Err(error) => {
                eprintln!("SKIPPED: redis-server cannot be started: {error}");
                None
            }
        }
    }

    /// On a busy machine, the start takes longer than the timeout of a test's first commands.
    fn wait_until_listening(&self) {
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.folder.join("socket")).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "redis-server does not listen within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Uses the `redis.conf` that ships, except for its address and its folder.
    fn spawn(folder: &Path) -> std::io::Result<Child> {
        let shipped = include_str!("../../redis.conf");
        let is_kept = |line: &&str| !["bind ", "port ", "dir "].iter().any(|setting| line.starts_with(setting));
        let kept: Vec<&str> = shipped.lines().filter(is_kept).collect();
        let folder = folder.display();
        let settings = format!("{}\nport 0\nunixsocket {folder}/socket\ndir {folder}\n", kept.join("\n"));
        let file = format!("{folder}/redis.conf");
        std::fs::write(&file, settings)?;
        let server = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        Command::new(server).arg(file).stdout(Stdio::null()).spawn()
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.join("socket").display())
    }

    pub fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// A TCP proxy to the server, and a signal that silences every open connection without closing it.
    pub async fn proxy(&self) -> (String, Arc<Notify>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let silence = Arc::new(Notify::new());
        let (socket, silenced) = (self.folder.join("socket"), Arc::clone(&silence));
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (socket, silenced) = (socket.clone(), Arc::clone(&silenced));
                tokio::spawn(async move {
                    let mut server = UnixStream::connect(socket).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = silenced.notified() => std::future::pending().await,
                    }
                });
            }
        });
        (url, silence)
    }

    pub fn subscribers(&self) -> u64 {
        let mut client = self.client();
        let (_, number): (String, u64) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg("mlserve:forget").query(&mut client).unwrap();
        number
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    pub fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.folder).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub async fn wait_until(condition: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(10), "after 10 s still not: {condition}");
        sleep(Duration::from_millis(5)).await;
    }
}
