//! A wire with faults: stands between a function and any server, HTTP or not, and delays, cuts or spoils what passes.
//!
//! What a client sends up to the first answer to it is one exchange, which is a round trip: they are counted here.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::plan::{Calls, Plan};

/// What goes wrong with an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFault {
    /// It is passed on this much later.
    Slow(Duration),
    /// It never arrives, and the connection stays open.
    Hang,
    /// It never arrives, and the connection is closed without a word.
    Reset,
    /// It arrives, and half of the first piece of the answer comes back before the connection is closed.
    Half,
    /// It never arrives, and bytes come back that are no answer.
    Garbage,
    /// It arrives, and the connection is closed before any of the answer comes back.
    Lost,
    /// No connection: new ones are closed at once, and those that are open as they are used.
    Refuse,
}

/// What a [`Tap`] is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The client has asked; the server has heard nothing of it.
    Asked,
    /// The server has answered; the client has heard nothing of it.
    Answered,
}

/// Whether the exchange a [`Tap`] was shown goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Pass,
    /// The connection is closed.
    Cut,
}

/// Sees both moments of every exchange, with the wire's name, before they happen.
pub type Tap = Arc<dyn Fn(&'static str, Moment) -> Verdict + Send + Sync>;

struct Shared {
    name: &'static str,
    upstream: Mutex<SocketAddr>,
    plan: Mutex<Plan<WireFault>>,
    tap: Mutex<Option<Tap>>,
    exchanges: AtomicUsize,
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan<WireFault>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, moment: Moment) -> Verdict {
        let tap = self.tap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tap.map_or(Verdict::Pass, |tap| tap(self.name, moment))
    }

    /// Whether a new connection is refused, which is a fault that was met.
    fn refuses(&self) -> bool {
        let mut plan = self.plan();
        plan.every() == Some(&WireFault::Refuse) && plan.meet().is_some()
    }
}

/// A port that leads to a server. It closes when this is dropped.
pub struct Wire {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("name", &self.shared.name).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Wire {
    /// Opens a port that leads to `upstream`.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn open(name: &'static str, upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name,
            upstream: Mutex::new(upstream),
            plan: Mutex::default(),
            tap: Mutex::default(),
            exchanges: AtomicUsize::new(0),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared)));
        Ok(Self { shared, address, listening })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes these exchanges go wrong.
    pub fn arrange(&self, fault: WireFault, calls: Calls) {
        self.shared.plan().arrange(fault, calls);
    }

    /// Everything passes again.
    pub fn clear(&self) {
        self.shared.plan().clear();
    }

    /// Shows every exchange to `tap`, or to nobody.
    pub fn tap(&self, tap: Option<Tap>) {
        *self.shared.tap.lock().unwrap_or_else(PoisonError::into_inner) = tap;
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// How many exchanges and connections met a fault.
    #[must_use]
    pub fn faults_met(&self) -> usize {
        self.shared.plan().met()
    }

    /// How many exchanges there were.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.shared.exchanges.load(Ordering::Relaxed)
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the wire.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move { relay(&shared, client).await.unwrap_or_default() });
                }
                Err(_) => return,
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn relay(shared: &Shared, mut client: TcpStream) -> std::io::Result<()> {
    if shared.refuses() {
        return Ok(());
    }
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut open = false;
    let mut spoiled = None;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if !open {
                    open = true;
                    shared.exchanges.fetch_add(1, Ordering::Relaxed);
                    if shared.show(Moment::Asked) == Verdict::Cut {
                        return Ok(());
                    }
                    spoiled = shared.plan().meet();
                    match spoiled {
                        Some(WireFault::Slow(by)) => tokio::time::sleep(by).await,
                        Some(WireFault::Hang) => {
                            while client.read(&mut asked).await? > 0 {}
                            return Ok(());
                        }
                        Some(WireFault::Reset | WireFault::Refuse) => return Ok(()),
                        Some(WireFault::Garbage) => return client.write_all(&[0x15, 0x03, 0xff, 0x00, 0x7f, b'{', 0xc3]).await,
                        Some(WireFault::Half | WireFault::Lost) | None => {}
                    }
                }
                server.write_all(&asked[..read]).await?;
            }
            read = server.read(&mut answered) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if open {
                    open = false;
                    if shared.show(Moment::Answered) == Verdict::Cut || spoiled == Some(WireFault::Lost) {
                        return Ok(());
                    }
                    if spoiled == Some(WireFault::Half) {
                        return client.write_all(&answered[..read.div_ceil(2)]).await;
                    }
                }
                client.write_all(&answered[..read]).await?;
            }
        }
    }
}
