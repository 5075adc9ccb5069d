//! A link with a delay, a rate and a loss, between two ports of loopback: a proxy for TCP and UDP.
//!
//! Each direction is a lane of its own. What enters a lane waits until all before it is on the line, takes its length
//! divided by the rate, and comes out half a round trip later. Flows share the lanes of a [`Link`], as they would share a
//! cable. Only payload counts against the rate, for TCP as for UDP.
//!
//! UDP that would wait for longer than a round trip is dropped, as a router does, and some more is lost by dice. TCP ends
//! at the proxy, so nothing of it is lost: when its lane is full the proxy stops reading. It holds one and a half times
//! what fits into a round trip, so that a sender whose own window is smaller than the link is as slow here as there.
//!
//! The clock of the runtime ticks in milliseconds and is never early: a round trip is one or two of them longer than said.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
};

/// Bytes read at once: short enough that a chunk does not travel as one lump.
const CHUNK: usize = 16 * 1024;
/// The longest datagram there is.
const DATAGRAM: usize = 64 * 1024;
/// Of the kernel, for each TCP socket of the proxy: little beside what a lane holds.
const TCP_BUFFER: u32 = 128 * 1024;
/// Of the kernel, for each UDP socket of the proxy: it must not lose what the dice have spared.
const UDP_BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;
/// Clients of one UDP port. What further ones send is dropped.
const MAX_FLOWS: usize = 256;

/// How good a link is, in both directions.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// From here to there and back.
    pub rtt: Duration,
    /// Bits a second.
    pub rate: u64,
    /// The part of UDP packets that is lost: 0 to 1.
    pub loss: f64,
    /// Of the dice: the same packets are lost for the same seed.
    pub seed: u64,
}

/// What has passed in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Bytes that came out or are under way.
    pub bytes: u64,
    /// Packets lost by dice.
    pub lost: u64,
    /// Packets dropped because too many waited.
    pub dropped: u64,
}

/// A link; cut when dropped.
#[derive(Debug)]
pub struct Link {
    runtime: Runtime,
    lanes: Lanes,
}

#[derive(Debug, Clone)]
struct Lanes {
    /// From those who connect.
    up: Arc<Lane>,
    /// To them.
    down: Arc<Lane>,
}

impl Link {
    /// # Panics
    /// When the system gives no threads.
    pub fn new(quality: Quality) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            runtime,
            lanes: Lanes {
                up: Arc::new(Lane::new(quality, 0)),
                down: Arc::new(Lane::new(quality, 1)),
            },
        }
    }

    /// Leads TCP connections from one port (0: any free one) to another: the port.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn tcp(&self, listen: u16, target: u16) -> io::Result<u16> {
        let _inside = self.runtime.enter();
        let socket = tcp_socket()?;
        socket.set_reuseaddr(true)?;
        socket.bind(loopback(listen))?;
        let listener = socket.listen(BACKLOG)?;
        let port = listener.local_addr()?.port();
        let lanes = self.lanes.clone();
        self.runtime.spawn(accept(lanes, listener, target));
        Ok(port)
    }

    /// Leads UDP packets from one port (0: any free one) to another, and the answers back: the port.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn udp(&self, listen: u16, target: u16) -> io::Result<u16> {
        let _inside = self.runtime.enter();
        let socket = Arc::new(udp_socket(listen)?);
        let port = socket.local_addr()?.port();
        let Lanes { up, down } = self.lanes.clone();
        let (inside, target) = (Arc::clone(&socket), loopback(target));
        let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let route = move |client: SocketAddr| {
            if let Some(flow) = flows.get(&client) {
                return Some((Arc::clone(flow), target));
            }
            if flows.len() >= MAX_FLOWS {
                return None;
            }
            let flow = Arc::new(udp_socket(0).ok()?);
            flows.insert(client, Arc::clone(&flow));
            let back = Arc::clone(&inside);
            let answers =
                move |from: SocketAddr| (from == target).then(|| (Arc::clone(&back), client));
            tokio::spawn(carry_datagrams(
                Arc::clone(&down),
                Arc::clone(&flow),
                answers,
            ));
            Some((flow, target))
        };
        self.runtime.spawn(carry_datagrams(up, socket, route));
        Ok(port)
    }

    /// What has passed from those who connect, and to them.
    pub fn passed(&self) -> (Passed, Passed) {
        (self.lanes.up.passed(), self.lanes.down.passed())
    }

    /// Waits until it is told to end.
    ///
    /// # Errors
    /// When the system gives no signals.
    pub fn run(&self) -> io::Result<()> {
        self.runtime.block_on(tokio::signal::ctrl_c())
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn tcp_socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Those of a listener are those of what it accepts.
    socket.set_recv_buffer_size(TCP_BUFFER)?;
    socket.set_send_buffer_size(TCP_BUFFER)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn udp_socket(port: u16) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(loopback(port))?;
    socket.set_nonblocking(true)?;
    // The system gives as much of it as it allows.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, UDP_BUFFER)?;
    UdpSocket::from_std(socket)
}

/// One direction of a link.
#[derive(Debug)]
struct Lane {
    quality: Quality,
    line: Mutex<Line>,
    bytes: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Line {
    /// When all that has entered is on its way.
    free_at: Instant,
    dice: u64,
}

impl Lane {
    fn new(quality: Quality, direction: u64) -> Self {
        Self {
            quality,
            line: Mutex::new(Line {
                free_at: Instant::now(),
                dice: quality.seed.wrapping_mul(2).wrapping_add(direction),
            }),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Bytes of a round trip.
    fn product(&self) -> usize {
        (self.quality.rtt.as_secs_f64() * self.quality.rate as f64 / 8.0) as usize
    }

    /// When bytes that enter now come out.
    fn enter(&self, len: usize) -> Instant {
        self.enter_line(len, &mut self.line())
    }

    fn enter_line(&self, len: usize, line: &mut Line) -> Instant {
        let takes = Duration::from_secs_f64(len as f64 * 8.0 / self.quality.rate as f64);
        line.free_at = line.free_at.max(Instant::now()) + takes;
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        line.free_at + self.quality.rtt / 2
    }

    /// The same for a packet, unless it is lost.
    fn enter_packet(&self, len: usize) -> Option<Instant> {
        let mut line = self.line();
        if line.throw() < self.quality.loss {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if line.free_at.saturating_duration_since(Instant::now()) > self.quality.rtt {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.enter_line(len, &mut line))
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passed(&self) -> Passed {
        Passed {
            bytes: self.bytes.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Line {
    /// A number from 0 to 1, by Steele, Lea and Flood's SplitMix64.
    fn throw(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

async fn accept(lanes: Lanes, listener: TcpListener, target: u16) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(connect(lanes.clone(), client, target));
            }
            // No more files, most likely: those there are will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One connection, to its end. Errors end it, which both sides see as the end of theirs.
async fn connect(lanes: Lanes, client: TcpStream, target: u16) -> io::Result<()> {
    let server = tcp_socket()?.connect(loopback(target)).await?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        carry_stream(&lanes.up, from_client, to_server),
        carry_stream(&lanes.down, from_server, to_client),
    )?;
    Ok(())
}

async fn carry_stream(
    lane: &Lane,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    let room = lane.product() * 3 / 2;
    let mut buffer = vec![0; CHUNK];
    let mut held = 0;
    let mut ended = false;
    // An empty chunk is the end.
    let mut flight: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    loop {
        while flight.front().is_some_and(|(due, _)| is_past(*due)) {
            let Some((_, chunk)) = flight.pop_front() else {
                break;
            };
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&chunk).await?;
            held -= chunk.len();
        }
        tokio::select! {
            () = next_due(flight.front().map(|(due, _)| *due)) => {}
            read = from.read(&mut buffer), if !ended && held < room.max(1) => {
                let chunk = buffer[..read?].to_vec();
                ended = chunk.is_empty();
                held += chunk.len();
                flight.push_back((lane.enter(chunk.len()), chunk));
            }
        }
    }
}

/// Carries what one socket receives to where `route` says, for ever.
async fn carry_datagrams(
    lane: Arc<Lane>,
    from: Arc<UdpSocket>,
    mut route: impl FnMut(SocketAddr) -> Option<(Arc<UdpSocket>, SocketAddr)>,
) {
    let mut buffer = vec![0; DATAGRAM];
    let mut flight: VecDeque<(Instant, Arc<UdpSocket>, SocketAddr, Vec<u8>)> = VecDeque::new();
    loop {
        while flight.front().is_some_and(|(due, ..)| is_past(*due)) {
            let Some((_, through, to, packet)) = flight.pop_front() else {
                break;
            };
            // A packet that cannot be sent is lost, as packets are.
            let _ = through.send_to(&packet, to).await;
        }
        tokio::select! {
            () = next_due(flight.front().map(|(due, ..)| *due)) => {}
            received = from.recv_from(&mut buffer) => {
                // An error tells of an earlier packet that nobody took.
                let Ok((len, sender)) = received else { continue };
                let Some((through, to)) = route(sender) else { continue };
                if let Some(due) = lane.enter_packet(len) {
                    flight.push_back((due, through, to, buffer[..len].to_vec()));
                }
            }
        }
    }
}

fn is_past(moment: Instant) -> bool {
    moment <= Instant::now()
}

async fn next_due(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
