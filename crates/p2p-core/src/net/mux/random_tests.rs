//! Random traffic over lines of little capacity, and random frames. Only tasks that were woken are polled, so that a wake-up
//! that is lost is found; the same seed gives the same run.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    sync::atomic::{AtomicBool, Ordering},
    task::{Wake, Waker},
};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{BoxFuture, FutureExt},
};
use libp2p::{
    core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
    yamux,
};

use super::{
    frame::{ACK, RST, SYN},
    state::{MAX_STREAMS, MAX_WIDE, SEND_QUEUE, WIDE_WINDOW, WINDOW},
    *,
};

/// SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Small ones as often as large ones.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.below(most.ilog2() as usize + 1);
        self.below(most.min(2 << bits) + 1)
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// One direction of a line.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    closed: bool,
    waiting: Vec<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// An end of a line. Like TLS, it holds back some of what is written until it is flushed.
#[derive(Debug)]
struct End {
    from: Arc<Mutex<Pipe>>,
    to: Arc<Mutex<Pipe>>,
    held: VecDeque<u8>,
    random: Random,
}

const HELD: usize = 100;

impl End {
    fn poll_hand_on(&mut self, cx: &mut Context<'_>, leave: usize) -> Poll<()> {
        let to = Arc::clone(&self.to);
        let mut pipe = to.lock().unwrap();
        while self.held.len() > leave {
            if pipe.closed {
                self.held.clear();
                break;
            }
            let room = pipe.capacity - pipe.bytes.len();
            if room == 0 {
                pipe.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            let len = self.held.len().min(room);
            pipe.bytes.extend(self.held.drain(..len));
            pipe.wake();
        }
        Poll::Ready(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for pipe in [&self.from, &self.to] {
            let mut pipe = pipe.lock().unwrap();
            pipe.closed = true;
            pipe.wake();
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let most = 1 + self.random.size(20_000);
        let mut pipe = self.from.lock().unwrap();
        if pipe.bytes.is_empty() && !pipe.closed {
            pipe.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        let len = buffer.len().min(most).min(pipe.bytes.len());
        for (to, from) in buffer.iter_mut().zip(pipe.bytes.drain(..len)) {
            *to = from;
        }
        pipe.wake();
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.to.lock().unwrap().closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        futures::ready!(self.poll_hand_on(cx, HELD));
        let len = bytes.len().min(1 + self.random.size(20_000));
        self.held.extend(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    /// Of several frames some, and in the middle of one as often as not.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        self.poll_write(cx, &bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_hand_on(cx, 0).map(Ok)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        futures::ready!(self.poll_hand_on(cx, 0));
        let mut pipe = self.to.lock().unwrap();
        pipe.closed = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

fn line(capacity: usize, random: &mut Random) -> (End, End) {
    let pipe = || {
        Arc::new(Mutex::new(Pipe {
            capacity,
            ..Pipe::default()
        }))
    };
    let (one, other) = (pipe(), pipe());
    let mut end = |from: &Arc<_>, to: &Arc<_>| End {
        from: Arc::clone(from),
        to: Arc::clone(to),
        held: VecDeque::new(),
        random: random.fork(),
    };
    (end(&one, &other), end(&other, &one))
}

#[derive(Debug)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Tasks = Arc<Mutex<Vec<BoxFuture<'static, ()>>>>;

/// Polls tasks, of those that were woken any, until all have ended.
fn run(tasks: &Tasks, random: &mut Random) {
    let mut running: Vec<(BoxFuture<'static, ()>, Arc<Flag>)> = Vec::new();
    loop {
        for task in tasks.lock().unwrap().drain(..) {
            running.push((task, Arc::new(Flag(AtomicBool::new(true)))));
        }
        if running.is_empty() {
            return;
        }
        let first = random.below(running.len());
        let woken = (0..running.len())
            .map(|n| (first + n) % running.len())
            .find(|at| running[*at].1.0.swap(false, Ordering::Relaxed));
        let at = woken.unwrap_or_else(|| panic!("{} tasks wait for ever", running.len()));
        let waker = Waker::from(Arc::clone(&running[at].1));
        let polled = running[at].0.poll_unpin(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            drop(running.swap_remove(at));
        }
    }
}

/// Counts down, and wakes who waits for nought.
#[derive(Debug, Default)]
struct Left {
    count: usize,
    waiting: Vec<Waker>,
}

#[derive(Clone, Default)]
struct World {
    tasks: Tasks,
    left: Arc<Mutex<Left>>,
}

impl World {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(task.boxed());
    }

    fn done(&self) {
        let mut left = self.left.lock().unwrap();
        left.count -= 1;
        if left.count == 0 {
            left.waiting.drain(..).for_each(Waker::wake);
        }
    }

    fn is_over(&self, cx: &Context<'_>) -> bool {
        let mut left = self.left.lock().unwrap();
        if !left.waiting.iter().any(|known| known.will_wake(cx.waker())) {
            left.waiting.push(cx.waker().clone());
        }
        left.count == 0
    }

    /// Works on a connection as libp2p does, until the streams are done; then one end closes it and the other sees that.
    fn drive(&self, mut muxer: StreamMuxerBox, mut to_open: usize, closes: bool, random: Random) {
        let world = self.clone();
        let mut random = random;
        let mut closing = false;
        self.spawn(poll_fn(move |cx| {
            loop {
                closing |= closes && world.is_over(cx);
                if closing {
                    return muxer.poll_close_unpin(cx).map(Result::unwrap);
                }
                if let Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
                    assert!(world.is_over(cx), "{error}");
                    return Poll::Ready(());
                }
                if to_open > 0
                    && let Poll::Ready(stream) = muxer.poll_outbound_unpin(cx)
                {
                    to_open -= 1;
                    world.spawn(ask(stream.unwrap(), random.fork(), world.clone()));
                    continue;
                }
                match muxer.poll_inbound_unpin(cx) {
                    Poll::Ready(Ok(stream)) => {
                        world.spawn(answer(stream, random.fork(), world.clone()));
                    }
                    Poll::Ready(Err(error)) => {
                        assert!(world.is_over(cx), "{error}");
                        return Poll::Ready(());
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        }));
    }
}

/// The byte at a place of a stream.
fn pattern(seed: u8, at: usize) -> u8 {
    (at / 251 + at) as u8 ^ seed
}

/// Writes in random parts.
async fn send(
    stream: &mut SubstreamBox,
    seed: u8,
    len: usize,
    random: &mut Random,
) -> io::Result<()> {
    let mut sent = 0;
    while sent < len {
        let part = (1 + random.size(40_000)).min(len - sent);
        let bytes: Vec<u8> = (sent..sent + part).map(|at| pattern(seed, at)).collect();
        stream.write_all(&bytes).await?;
        sent += part;
    }
    stream.flush().await
}

/// Reads up to so much, or to the end; how much came.
async fn receive(
    stream: &mut SubstreamBox,
    seed: u8,
    len: usize,
    random: &mut Random,
) -> io::Result<usize> {
    let mut got = 0;
    let mut buffer = vec![0; 40_000];
    while got < len {
        let part = (1 + random.size(buffer.len() - 1)).min(len - got);
        let read = stream.read(&mut buffer[..part]).await?;
        if read == 0 {
            break;
        }
        for (n, byte) in buffer[..read].iter().enumerate() {
            assert_eq!(*byte, pattern(seed, got + n), "byte {}", got + n);
        }
        got += read;
    }
    Ok(got)
}

/// What becomes of a stream.
const WHOLE: u8 = 0;
const ASKER_GIVES_UP: u8 = 1;
const ANSWERER_GIVES_UP: u8 = 2;

async fn ask(mut stream: SubstreamBox, mut random: Random, world: World) {
    let fate = [WHOLE, WHOLE, WHOLE, ASKER_GIVES_UP, ANSWERER_GIVES_UP][random.below(5)];
    let seed = random.next() as u8;
    let request = random.size(400_000);
    // Of a stream that was ended and then given up nobody is told; what fits into a window ends in spite of that.
    let response = random.size(if fate == ASKER_GIVES_UP {
        100_000
    } else {
        400_000
    });
    let head: Vec<u8> = [fate, seed]
        .into_iter()
        .chain((request as u32).to_be_bytes())
        .chain((response as u32).to_be_bytes())
        .collect();
    let asked = async {
        stream.write_all(&head).await?;
        if fate == ASKER_GIVES_UP && random.below(2) == 0 {
            let part = random.below(request + 1);
            return send(&mut stream, seed, part, &mut random).await.map(|()| 0);
        }
        send(&mut stream, seed, request, &mut random).await?;
        stream.close().await?;
        let wanted = match fate {
            ASKER_GIVES_UP => random.below(response + 1),
            _ => response + 1,
        };
        receive(&mut stream, !seed, wanted, &mut random).await
    }
    .await;
    if fate == WHOLE {
        assert_eq!(asked.unwrap(), response);
    }
    drop(stream);
    world.done();
}

async fn answer(mut stream: SubstreamBox, mut random: Random, world: World) {
    let mut head = [0; 10];
    let read = stream.read_exact(&mut head).await;
    let [fate, seed, q0, q1, q2, q3, r0, r1, r2, r3] = head;
    let request = u32::from_be_bytes([q0, q1, q2, q3]) as usize;
    let response = u32::from_be_bytes([r0, r1, r2, r3]) as usize;
    let answered = async {
        read?;
        if fate == ANSWERER_GIVES_UP {
            let part = random.below(request + 1);
            receive(&mut stream, seed, part, &mut random).await?;
            let part = random.below(response + 1).min(100_000);
            return send(&mut stream, !seed, part, &mut random)
                .await
                .map(|()| 0);
        }
        let got = receive(&mut stream, seed, request + 1, &mut random).await?;
        send(&mut stream, !seed, response, &mut random).await?;
        stream.close().await.map(|()| got)
    }
    .await;
    if fate == WHOLE {
        assert_eq!(answered.unwrap(), request);
    }
    drop(stream);
    world.done();
}

/// Which of the two ends, the server's and the client's, has libp2p's muxer.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Ours,
    TheirServer,
    TheirClient,
}

fn muxers(pair: Pair, capacity: usize, random: &mut Random) -> [StreamMuxerBox; 2] {
    let (server, client) = line(capacity, random);
    let name = "/yamux/1.0.0";
    let ours = |end: End, is_client: bool| StreamMuxerBox::new(Mux::new(end, is_client));
    let theirs = yamux::Config::default;
    let server = match pair {
        Pair::TheirServer => {
            let muxer = theirs().upgrade_inbound(server, name).now_or_never();
            StreamMuxerBox::new(muxer.unwrap().unwrap())
        }
        _ => ours(server, false),
    };
    let client = match pair {
        Pair::TheirClient => {
            let muxer = theirs().upgrade_outbound(client, name).now_or_never();
            StreamMuxerBox::new(muxer.unwrap().unwrap())
        }
        _ => ours(client, true),
    };
    [server, client]
}

/// Says which run it was that failed.
struct Run(Pair, u64);

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}, seed {}", self.0, self.1);
        }
    }
}

const PAIRS: [Pair; 3] = [Pair::Ours, Pair::TheirServer, Pair::TheirClient];

#[test]
fn every_byte_arrives_and_every_task_ends() {
    for (pair, seed) in PAIRS.into_iter().flat_map(|p| (0..30).map(move |n| (p, n))) {
        let _run = Run(pair, seed);
        let mut random = Random(seed);
        let capacity = 200 + random.size(100_000);
        let world = World::default();
        let closer = random.below(2);
        for (n, muxer) in muxers(pair, capacity, &mut random).into_iter().enumerate() {
            let to_open = random.below(12);
            world.left.lock().unwrap().count += 2 * to_open;
            world.drive(muxer, to_open, n == closer, random.fork());
        }
        run(&world.tasks, &mut random);
    }
}

#[test]
fn what_was_written_before_a_connection_is_closed_arrives() {
    for (pair, seed) in PAIRS.into_iter().flat_map(|p| (0..10).map(move |n| (p, n))) {
        let _run = Run(pair, seed);
        let mut random = Random(seed);
        let capacity = 1 + random.size(1000);
        let [server, client] = muxers(pair, capacity, &mut random);
        let (mut writer, mut reader) = match pair {
            Pair::TheirServer => (client, server),
            _ => (server, client),
        };
        let world = World::default();
        let len = 1 + random.size(100_000);
        world.spawn(async move {
            let mut stream = poll_fn(|cx| writer.poll_outbound_unpin(cx)).await.unwrap();
            send(&mut stream, 7, len, &mut Random(seed)).await.unwrap();
            stream.close().await.unwrap();
            if seed % 2 == 0 {
                drop(stream);
            }
            poll_fn(|cx| writer.poll_close_unpin(cx)).await.unwrap();
        });
        let to_read = world.clone();
        world.spawn(
            poll_fn(move |cx| {
                if reader.poll_unpin(cx)?.is_ready() {
                    return Poll::Pending;
                }
                while let Poll::Ready(mut stream) = reader.poll_inbound_unpin(cx)? {
                    to_read.spawn(async move {
                        let got = receive(&mut stream, 7, len + 1, &mut Random(seed)).await;
                        assert_eq!(got.unwrap(), len);
                    });
                }
                Poll::Pending
            })
            .map(|_: io::Result<()>| ()),
        );
        run(&world.tasks, &mut random);
    }
}

/// A header such as a peer could send that means harm, of streams that it opened lately or may have been told of.
fn any_header(random: &mut Random, opened: u32) -> Header {
    let kinds = [
        Kind::Data,
        Kind::Data,
        Kind::Window,
        Kind::Window,
        Kind::Ping,
    ];
    let kind = match random.below(2000) {
        0 => Kind::GoAway,
        n => kinds[n % kinds.len()],
    };
    let flags = match random.below(100) {
        0 => random.next() as u16,
        1..40 => SYN,
        40..60 => [RST, FIN, ACK, 0, 0][random.below(5)],
        _ => 0,
    };
    let stream = match random.below(500) {
        0 => random.next() as u32,
        1..200 => random.below(20) as u32,
        _ => opened
            .saturating_mul(2)
            .saturating_sub(random.below(150) as u32),
    };
    let len = match random.below(300) {
        0 => random.next() as u32,
        _ => random.size(20_000) as u32,
    };
    Header {
        kind,
        flags,
        stream,
        len,
    }
}

fn hostile_bytes(random: &mut Random, is_client: bool) -> VecDeque<u8> {
    let mut bytes = VecDeque::new();
    let mut opened = 0;
    for _ in 0..random.size(4000) {
        let mut header = any_header(random, opened);
        if header.has(SYN) && header.kind != Kind::Ping && random.below(200) > 0 {
            header.stream = 2 * opened + if is_client { 2 } else { 1 };
            opened += 1;
        }
        bytes.extend(header.to_bytes());
        if header.kind == Kind::Data {
            bytes.extend(std::iter::repeat_n(7, (header.len as usize).min(20_000)));
        }
    }
    bytes
}

/// As the head of the module promises, and as much again for vectors that grow by doubling.
const MOST: usize = 2
    * (MAX_WIDE * WIDE_WINDOW as usize
        + 2 * MAX_STREAMS * (WINDOW as usize + SEND_QUEUE + 2 * CHUNK));

#[test]
fn no_frames_make_it_panic_or_grow_without_bound() {
    let mut ends = [0, 0];
    for seed in 0..300 {
        let _run = Run(Pair::Ours, seed);
        let mut random = Random(seed);
        let is_client = random.below(2) == 0;
        let (near, far) = line(100_000, &mut random);
        let mut mux = Mux::new(near, is_client);
        let state = Arc::clone(&mux.state);
        let mut bytes = hostile_bytes(&mut random, is_client);
        let mut streams: Vec<Stream> = Vec::new();
        let reads = random.below(2) == 0;
        let keeps = random.below(MAX_STREAMS);
        let mut cx = Context::from_waker(Waker::noop());
        let mut stuck = 0;
        let ended = loop {
            {
                let mut pipe = far.to.lock().unwrap();
                let room = pipe.capacity - pipe.bytes.len();
                stuck = if room == 0 { stuck + 1 } else { 0 };
                let len = room.min(bytes.len());
                pipe.bytes.extend(bytes.drain(..len));
                if bytes.is_empty() && random.below(50) == 0 || stuck > 10 {
                    break false;
                }
            }
            if reads {
                far.from.lock().unwrap().bytes.clear();
            }
            if Pin::new(&mut mux).poll(&mut cx).is_ready() {
                break true;
            }
            if let Poll::Ready(stream) = Pin::new(&mut mux).poll_outbound(&mut cx) {
                streams.push(stream.unwrap());
            }
            while let Poll::Ready(stream) = Pin::new(&mut mux).poll_inbound(&mut cx) {
                streams.push(stream.unwrap());
            }
            for _ in 0..streams.len().min(5) {
                let at = random.below(streams.len());
                let mut buffer = vec![0; random.size(100_000)];
                let _ = Pin::new(&mut streams[at]).poll_read(&mut cx, &mut buffer);
                let _ = Pin::new(&mut streams[at]).poll_write(&mut cx, &buffer);
                if random.below(10) == 0 {
                    let _ = Pin::new(&mut streams[at]).poll_close(&mut cx);
                }
            }
            while streams.len() > keeps {
                drop(streams.swap_remove(random.below(streams.len())));
            }
            let state = lock(&state);
            let [open, incoming, turns, control] = state.entries();
            assert!(open <= 2 * MAX_STREAMS && incoming <= MAX_STREAMS);
            assert!(turns <= 1000 && control <= 1000, "{turns}, {control}");
            assert!(state.pinned() <= MOST, "{} bytes", state.pinned());
        };
        ends[usize::from(ended)] += 1;
        drop(mux);
        for stream in &mut streams {
            let mut sink = Vec::new();
            let read = stream.read_to_end(&mut sink).now_or_never();
            assert!(read.is_some(), "what came can be read, and then it ends");
        }
    }
    let [went_on, violated] = ends;
    assert!(went_on > 20 && violated > 20, "{ends:?}");
}
