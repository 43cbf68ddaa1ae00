//! A server of files, such as a stranger could run: it answers each path as it is set to, and remembers what it was asked for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// What a path is answered with.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

#[derive(Default)]
struct Known {
    answers: BTreeMap<String, Answer>,
    asked: Vec<String>,
}

pub(super) struct Files {
    pub(super) address: SocketAddr,
    known: Arc<Mutex<Known>>,
    /// Requests that may be answered. All of them, unless they are held.
    gate: Arc<Semaphore>,
    /// Requests that have come.
    came: Arc<Semaphore>,
}

impl Files {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let files = Self {
            address: listener.local_addr().unwrap(),
            known: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
            came: Arc::new(Semaphore::new(0)),
        };
        let (known, gate, came) = (Arc::clone(&files.known), Arc::clone(&files.gate), Arc::clone(&files.came));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&known), Arc::clone(&gate), Arc::clone(&came)));
            }
        });
        files
    }

    /// Sets what a path is answered with. Where it is from now on.
    pub(super) fn put(&self, path: &str, kind: &str, body: &[u8]) -> String {
        self.set(path, 200, &format!("content-type: {kind}\r\n"), body)
    }

    pub(super) fn set(&self, path: &str, status: u16, headers: &str, body: &[u8]) -> String {
        let answer = Answer { status, headers: headers.to_owned(), body: body.to_vec() };
        self.known.lock().unwrap().answers.insert(path.to_owned(), answer);
        format!("http://{}{path}", self.address)
    }

    /// The paths that were asked for, in order. Also of those who only connected: `-`.
    pub(super) fn asked(&self) -> Vec<String> {
        self.known.lock().unwrap().asked.clone()
    }

    /// Holds requests that come from now on.
    pub(super) fn hold(&self) {
        self.gate.forget_permits(1000);
    }

    /// Waits until one has come.
    pub(super) async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    /// Answers those that are held, and all that come.
    pub(super) fn release(&self) {
        self.gate.add_permits(1000);
    }
}

async fn answer(mut stream: TcpStream, known: Arc<Mutex<Known>>, gate: Arc<Semaphore>, came: Arc<Semaphore>) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => break,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("-").to_owned();
    let found = {
        let mut known = known.lock().unwrap();
        known.asked.push(path.clone());
        known.answers.get(&path).cloned()
    };
    came.add_permits(1);
    let _held = gate.acquire().await.unwrap();
    let Answer { status, headers, body } =
        found.unwrap_or(Answer { status: 404, headers: String::new(), body: Vec::new() });
    let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // Who asked may have heard enough.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}
