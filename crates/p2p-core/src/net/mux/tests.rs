use std::{future::poll_fn, task::Waker};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
    tcp::tokio::TcpStream,
    yamux,
};
use tokio::sync::mpsc;

use super::{
    frame::{RST, SYN},
    state::{MAX_STREAMS, MAX_WIDE, WIDE_WINDOW, WINDOW},
    *,
};

/// A connection, and a client's and a server's upgrade of it.
async fn meet<I, O>(inbound: I, outbound: O) -> (StreamMuxerBox, StreamMuxerBox)
where
    I: InboundConnectionUpgrade<TcpStream, Error = io::Error> + UpgradeInfo<Info = &'static str>,
    O: OutboundConnectionUpgrade<TcpStream, Error = io::Error> + UpgradeInfo<Info = &'static str>,
    I::Output: StreamMuxer<Substream: Send + 'static, Error: Send + Sync> + Send + 'static,
    O::Output: StreamMuxer<Substream: Send + 'static, Error: Send + Sync> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, client) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
    let name = "/yamux/1.0.0";
    let server = inbound.upgrade_inbound(TcpStream(server.unwrap().0), name);
    let client = outbound.upgrade_outbound(TcpStream(client.unwrap()), name);
    (
        StreamMuxerBox::new(server.await.unwrap()),
        StreamMuxerBox::new(client.await.unwrap()),
    )
}

/// Works on a connection for as long as it lives: opens so many streams, and takes those that come.
fn drive(mut muxer: StreamMuxerBox, mut to_open: usize) -> mpsc::Receiver<SubstreamBox> {
    let (streams, received) = mpsc::channel(MAX_STREAMS);
    tokio::spawn(poll_fn(move |cx| {
        loop {
            if let Poll::Ready(Err(_)) = muxer.poll_unpin(cx) {
                return Poll::Ready(());
            }
            if to_open > 0
                && let Poll::Ready(Ok(stream)) = muxer.poll_outbound_unpin(cx)
            {
                to_open -= 1;
                streams.try_send(stream).unwrap();
            } else if let Poll::Ready(Ok(stream)) = muxer.poll_inbound_unpin(cx) {
                streams.try_send(stream).unwrap();
            } else {
                return Poll::Pending;
            }
        }
    }));
    received
}

/// More than the widest window, and different in each place.
fn much(seed: u8) -> Vec<u8> {
    let len = usize::try_from(WIDE_WINDOW).unwrap() + 1_000_001;
    (0..len).map(|at| (at / 251 + at) as u8 ^ seed).collect()
}

/// One side asks, in a byte, and the other answers with much, on several streams at once.
async fn much_comes_back(muxers: (StreamMuxerBox, StreamMuxerBox)) {
    const STREAMS: usize = 6;
    let (server, client) = muxers;
    let mut accepted = drive(server, 0);
    let mut opened = drive(client, STREAMS);
    tokio::spawn(async move {
        while let Some(mut stream) = accepted.recv().await {
            tokio::spawn(async move {
                let mut seed = Vec::new();
                stream.read_to_end(&mut seed).await.unwrap();
                stream.write_all(&much(seed[0])).await.unwrap();
                stream.close().await.unwrap();
            });
        }
    });
    let mut asking = Vec::new();
    for seed in 0..STREAMS as u8 {
        let mut stream = opened.recv().await.unwrap();
        asking.push(tokio::spawn(async move {
            stream.write_all(&[seed]).await.unwrap();
            stream.close().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert!(got == much(seed), "{} bytes of stream {seed}", got.len());
        }));
    }
    for asked in asking {
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn speaks_with_itself_and_with_libp2p_both_ways() {
    much_comes_back(meet(Config, Config).await).await;
    much_comes_back(meet(Config, yamux::Config::default()).await).await;
    much_comes_back(meet(yamux::Config::default(), Config).await).await;
}

#[tokio::test]
async fn what_was_sent_before_the_end_of_a_connection_can_be_read() {
    let (server, client) = meet(Config, Config).await;
    let mut accepted = drive(server, 0);
    let mut opened = drive(client, 1);
    let mut stream = opened.recv().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut other = accepted.recv().await.unwrap();
    drop(stream);
    let mut got = [0; 5];
    other.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    // It was given up, not ended.
    let error = other.read(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_idle_connection_keeps_no_memory_to_read_into() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, client) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
    let mut mux = Mux::new(TcpStream(server.unwrap().0), false);
    let mut client = client.unwrap();
    let len = 3 * CHUNK;
    let header = Header::data(1, SYN, u32::try_from(len).unwrap()).to_bytes();
    let (first, rest) = (vec![1; len - 1], [1]);
    client
        .write_all(&[&header[..], &first].concat())
        .await
        .unwrap();
    let mut read = 0;
    let mut largest = 0;
    poll_fn(|cx| {
        let _ = mux.poll_work(cx)?;
        largest = largest.max(mux.chunk.capacity());
        let mut buffer = vec![0; len];
        while let Some(got) = lock(&mux.state).read(1, &mut buffer, cx.waker()) {
            read += got?;
        }
        match &mux.reading {
            Reading::Data { left: 1, .. } if read == len - 1 => Poll::Ready(Ok(())),
            _ => Poll::<io::Result<()>>::Pending,
        }
    })
    .await
    .unwrap();
    assert!((1..=2 * CHUNK).contains(&largest), "{largest}");
    client.write_all(&rest).await.unwrap();
    poll_fn(|cx| {
        let _ = mux.poll_work(cx)?;
        match mux.reading {
            Reading::Header { filled: 0, .. } => Poll::Ready(Ok(())),
            _ => Poll::<io::Result<()>>::Pending,
        }
    })
    .await
    .unwrap();
    assert_eq!(mux.chunk.capacity(), 0);
}

fn headers(state: &mut State) -> Vec<Header> {
    let mut headers = Vec::new();
    while let Some(output) = state.next_output() {
        let mut rest = output.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<HEADER>() {
            let header = Header::parse(*head).unwrap();
            let body = if header.kind == Kind::Data {
                header.len
            } else {
                0
            };
            rest = &tail[body as usize..];
            headers.push(header);
        }
    }
    headers
}

fn read_all(state: &mut State, id: u32) -> usize {
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    while let Some(Ok(len)) = state.read(id, &mut buffer, Waker::noop()) {
        read += len;
    }
    read
}

fn arrive(state: &mut State, id: u32, len: u32) -> io::Result<()> {
    state.on_header(Header::data(id, 0, len))?;
    if len > 0 {
        state.on_data(id, vec![0; len as usize]);
    }
    Ok(())
}

#[test]
fn a_stream_of_ours_that_carries_much_gets_a_wide_window_and_only_so_many_do() {
    let mut state = State::new(true);
    let mut wide = 0;
    for _ in 0..MAX_WIDE + 2 {
        let id = state.open().unwrap().unwrap();
        headers(&mut state);
        arrive(&mut state, id, WINDOW).unwrap();
        assert_eq!(read_all(&mut state, id), WINDOW as usize);
        let [update] = headers(&mut state)[..] else {
            panic!("one update");
        };
        wide += usize::from(update.len == WIDE_WINDOW);
        arrive(&mut state, id, update.len).unwrap();
        assert!(arrive(&mut state, id, 1).is_err(), "no more than granted");
    }
    assert_eq!(wide, MAX_WIDE);
}

#[test]
fn a_stream_of_theirs_keeps_its_window() {
    let mut state = State::new(true);
    state.on_header(Header::window(2, SYN, 0)).unwrap();
    assert_eq!(state.accept(), Some(2));
    headers(&mut state);
    for _ in 0..10 {
        arrive(&mut state, 2, WINDOW).unwrap();
        assert!(arrive(&mut state, 2, 1).is_err());
        read_all(&mut state, 2);
        assert_eq!(headers(&mut state), [Header::window(2, 0, WINDOW)]);
    }
}

#[test]
fn a_stream_given_up_in_the_middle_of_much_is_reset_although_we_had_ended_our_side() {
    for (much, expected) in [(WINDOW, vec![Header::data(1, RST, 0)]), (1, vec![])] {
        let mut state = State::new(true);
        let id = state.open().unwrap().unwrap();
        state.finish(id);
        arrive(&mut state, id, much).unwrap();
        read_all(&mut state, id);
        headers(&mut state);
        state.drop_stream(id);
        assert_eq!(headers(&mut state), expected);
        // What was under way is no offence.
        arrive(&mut state, id, 1000).unwrap();
    }
}

#[test]
fn numbers_that_cannot_be_are_violations() {
    for id in [0, 1, 3] {
        let mut state = State::new(true);
        assert!(state.on_header(Header::window(id, SYN, 0)).is_err(), "{id}");
    }
    let mut state = State::new(true);
    state.on_header(Header::window(2, SYN, 0)).unwrap();
    assert!(state.on_header(Header::window(2, SYN, 0)).is_err(), "again");
}

#[test]
fn too_many_streams_are_refused_one_by_one() {
    let mut state = State::new(true);
    let theirs = (1..=MAX_STREAMS as u32).map(|n| 2 * n);
    for id in theirs {
        state.on_header(Header::window(id, SYN, 0)).unwrap();
    }
    headers(&mut state);
    // One is given up by them, and one more opened; nobody here has let go of the former yet.
    state.on_header(Header::data(2, RST, 0)).unwrap();
    let one_more = 2 * MAX_STREAMS as u32 + 2;
    state.on_header(Header::data(one_more, SYN, 5)).unwrap();
    state.on_data(one_more, b"hello".to_vec());
    assert_eq!(headers(&mut state), [Header::data(one_more, RST, 0)]);
    let accepted = std::iter::from_fn(|| state.accept()).count();
    assert_eq!(accepted, MAX_STREAMS);
    state.drop_stream(2);
    headers(&mut state);
    state.on_header(Header::data(one_more + 2, SYN, 0)).unwrap();
    assert_eq!(state.accept(), Some(one_more + 2));
    // Ours wait instead.
    for _ in 0..MAX_STREAMS {
        assert!(matches!(state.open(), Some(Ok(_))));
    }
    assert!(state.open().is_none());
}

#[test]
fn a_reset_is_not_an_end_and_after_an_end_comes_no_data() {
    for flags in [RST, RST | FIN] {
        let mut state = State::new(true);
        let id = state.open().unwrap().unwrap();
        arrive(&mut state, id, 3).unwrap();
        state.on_header(Header::data(id, flags, 0)).unwrap();
        state.on_finished(id);
        let mut buffer = [0; 10];
        let read = state.read(id, &mut buffer, Waker::noop()).unwrap();
        assert_eq!(read.unwrap(), 3, "what came before can be read");
        let read = state.read(id, &mut buffer, Waker::noop()).unwrap();
        assert!(read.is_err(), "{flags}");
    }
    let mut state = State::new(true);
    let id = state.open().unwrap().unwrap();
    state.on_header(Header::window(id, FIN, 0)).unwrap();
    arrive(&mut state, id, 0).unwrap();
    assert!(arrive(&mut state, id, 1).is_err());
}

#[test]
fn pings_that_nobody_reads_the_answers_of_stop_the_reading() {
    let mut state = State::new(false);
    let ping = Header {
        kind: Kind::Ping,
        flags: SYN,
        stream: 0,
        len: 7,
    };
    let mut pings = 0;
    while !state.is_backlogged() {
        state.on_header(ping).unwrap();
        pings += 1;
    }
    assert_eq!(headers(&mut state).len(), pings);
    assert!(!state.is_backlogged());
}

#[test]
fn credit_that_overflows_is_a_violation() {
    let mut state = State::new(true);
    let id = state.open().unwrap().unwrap();
    let credit = u32::MAX - WINDOW;
    state.on_header(Header::window(id, 0, credit)).unwrap();
    assert!(state.on_header(Header::window(id, 0, 1)).is_err());
}
