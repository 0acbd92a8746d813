//! The body of a request as it arrives: memory is taken, and counted, as bytes come. What a sender declares, or does not,
//! takes none.
//!
//! Not here: which answer becomes of what did not arrive (`receive`), and what is in a body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which room is counted.
const UNIT_BYTES: usize = 1_024;

/// The part of the largest body that each may hold while it arrives, whatever others hold.
pub(super) const BEGIN_PART: usize = 32;

/// How fast a body has to arrive.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// All of it within this time.
    pub(super) whole: Duration,
    /// It is looked at after each such part of the time.
    pub(super) part: Duration,
    /// So many bytes come in a part on average...
    pub(super) bytes_min: usize,
    /// ...of so many parts; of each by itself while room is scarce.
    pub(super) parts: u32,
}

/// Memory for all bodies in work, compressed and decompressed.
///
/// A body that is still arriving holds its begin like one that has arrived. What it holds beyond that counts against half
/// of the room, so a few large ones that never end leave the other half to ordinary pushes.
pub(super) struct BodyRoom {
    units: Arc<Semaphore>,
    /// How many there are.
    all: usize,
    /// What bodies that are still arriving may take beyond their begins.
    arriving: Arc<Semaphore>,
    /// How much of a body is its begin.
    begin_units: usize,
}

impl BodyRoom {
    /// Room for so many bodies of this size.
    pub(super) fn new(bodies: usize, body_bytes: usize) -> BodyRoom {
        let of_one = body_bytes.div_ceil(UNIT_BYTES);
        let units = bodies.saturating_mul(of_one).min(Semaphore::MAX_PERMITS);
        BodyRoom {
            units: Arc::new(Semaphore::new(units)),
            all: units,
            arriving: Arc::new(Semaphore::new((units / 2).max(of_one).min(units))),
            begin_units: (body_bytes / BEGIN_PART).div_ceil(UNIT_BYTES),
        }
    }

    /// Room for `bytes`, until what is returned is dropped; `None` if there is not so much.
    pub(super) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.take_units(bytes.div_ceil(UNIT_BYTES))
    }

    /// Whether less than a quarter is left.
    fn is_scarce(&self) -> bool {
        self.units.available_permits() < self.all / 4
    }

    fn take_units(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        take(&self.units, units)
    }

    /// How many bytes there is room for.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }
}

fn take(units: &Arc<Semaphore>, count: usize) -> Option<OwnedSemaphorePermit> {
    units.clone().try_acquire_many_owned(u32::try_from(count).ok()?).ok()
}

/// A whole body, and its room.
pub(super) struct WholeBody {
    pub(super) bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
    /// What it holds of the room for bodies that are still arriving; nothing once it has.
    arriving: Option<OwnedSemaphorePermit>,
}

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It declares so many bytes, or has more than the most.
    TooLarge { declared: Option<usize> },
    /// There is no room for more of it.
    NoRoom,
    /// Others that are still arriving fill their half of the room.
    NoRoomToArrive,
    /// It did not arrive in time.
    Slow,
    /// It came too slowly.
    Stalled,
    /// The connection broke.
    BrokenOff(String),
}

/// Reads a body to its end, of at most `max` bytes, at this pace.
pub(super) async fn read(
    body: Body,
    declared: Option<usize>,
    max: usize,
    pace: Pace,
    room: &BodyRoom,
) -> Result<WholeBody, BodyError> {
    if declared.is_some_and(|length| length > max) {
        return Err(BodyError::TooLarge { declared });
    }
    // One that is waited for is counted before its first byte.
    let held = room.take_units(1).ok_or(BodyError::NoRoom)?;
    let mut arrived = WholeBody { bytes: Vec::new(), room: held, arriving: None };
    match tokio::time::timeout(pace.whole, arrived.fill(body, declared, max, pace, room)).await {
        Ok(filled) => {
            filled?;
            arrived.arriving = None;
            Ok(arrived)
        }
        Err(_) => Err(BodyError::Slow),
    }
}

impl WholeBody {
    async fn fill(
        &mut self,
        mut body: Body,
        declared: Option<usize>,
        max: usize,
        pace: Pace,
        room: &BodyRoom,
    ) -> Result<(), BodyError> {
        // Of this part of the time, and of the parts since the average was looked at.
        let (mut part, mut parts, mut since) = (0, 0, 0);
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + pace.part, pace.part);
        loop {
            let frame = tokio::select! {
                biased;
                frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)) => frame,
                _ = look.tick() => {
                    (parts, since) = (parts + 1, since + part);
                    let slow = parts == pace.parts && since < pace.bytes_min * parts as usize;
                    if slow || (room.is_scarce() && part < pace.bytes_min) {
                        return Err(BodyError::Stalled);
                    }
                    part = 0;
                    if parts == pace.parts {
                        (parts, since) = (0, 0);
                    }
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| BodyError::BrokenOff(error.to_string()))?;
            // Trailers are not part of the body.
            let Ok(data) = frame.into_data() else { continue };
            let length = self.bytes.len() + data.len();
            if length > max {
                return Err(BodyError::TooLarge { declared: None });
            }
            self.grow(length, declared.unwrap_or(max), room)?;
            self.bytes.extend_from_slice(&data);
            part += data.len();
        }
    }

    /// Makes space for `length` bytes: twice what there was, so that bytes are moved seldom, but none beyond `end`, where
    /// the body ends.
    fn grow(&mut self, length: usize, end: usize, room: &BodyRoom) -> Result<(), BodyError> {
        let space = self.bytes.capacity();
        if length <= space {
            return Ok(());
        }
        let wanted = length.max(end.min(2 * space));
        let units = wanted.div_ceil(UNIT_BYTES);
        let arriving = units.saturating_sub(room.begin_units.max(1));
        if arriving > 0 && length < end {
            let more =
                arriving.saturating_sub(self.arriving.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
            let more = take(&room.arriving, more).ok_or(BodyError::NoRoomToArrive)?;
            match &mut self.arriving {
                Some(held) => held.merge(more),
                none => *none = Some(more),
            }
        }
        let more = units.saturating_sub(self.room.num_permits());
        self.room.merge(room.take_units(more).ok_or(BodyError::NoRoom)?);
        self.bytes.reserve_exact(wanted - self.bytes.len());
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::Bytes;
    use http_body::Frame;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    const PATIENCE: Pace =
        Pace { whole: Duration::from_secs(60), part: Duration::from_secs(60), bytes_min: 0, parts: 1 };

    /// A body whose pieces come when a test sends them.
    struct BodyPieces(UnboundedReceiver<std::io::Result<Bytes>>);

    impl HttpBody for BodyPieces {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
        }
    }

    /// A body, and where its pieces are sent; it ends when that is dropped.
    pub(in super::super) fn pieces() -> (UnboundedSender<std::io::Result<Bytes>>, Body) {
        let (to, from) = unbounded_channel();
        (to, Body::new(BodyPieces(from)))
    }

    #[tokio::test]
    async fn a_body_that_is_waited_for_takes_no_room_that_it_does_not_fill() {
        const MAX: usize = 64 << 10;
        let room = Arc::new(BodyRoom::new(8, MAX));
        let all = room.free();
        for declared in [None, Some(MAX)] {
            let waiting: Vec<_> = (0..256)
                .map(|_| {
                    let (to, body) = pieces();
                    to.send(Ok(Bytes::from_static(b"ab"))).unwrap();
                    let room = room.clone();
                    let arrived =
                        tokio::spawn(async move { read(body, declared, MAX, PATIENCE, &room).await });
                    (to, arrived)
                })
                .collect();
            // Each is read once; some turns later none of them has taken more.
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(room.free(), all - 256 * UNIT_BYTES);
            let honest = Body::from(vec![7; MAX]);
            let arrived = read(honest, declared, MAX, PATIENCE, &room).await.unwrap_or_else(|_| panic!());
            assert_eq!((arrived.bytes, room.free()), (vec![7; MAX], all - 256 * UNIT_BYTES - MAX));
            drop(arrived.room);
            for (to, arrived) in waiting {
                drop(to);
                assert_eq!(arrived.await.unwrap().unwrap_or_else(|_| panic!()).bytes, b"ab");
            }
            assert_eq!(room.free(), all);
        }
    }

    #[tokio::test]
    async fn large_bodies_that_do_not_end_leave_half_of_the_room_to_others() {
        const MAX: usize = 320 << 10;
        let (room, half) = (Arc::new(BodyRoom::new(8, MAX)), 4 * MAX);
        let (all, begin) = (room.free(), MAX / BEGIN_PART);
        // One byte short of its end each.
        let wait = |length: usize| {
            let (to, body) = pieces();
            to.send(Ok(Bytes::from(vec![7; length]))).unwrap();
            let room = room.clone();
            let arrived =
                tokio::spawn(async move { read(body, Some(length + 1), MAX, PATIENCE, &room).await });
            (to, arrived)
        };
        let mut slow: Vec<_> = (0..8).map(|_| wait(MAX - 1)).collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        // Beyond their begins four of them fill the half; the others are refused and hold nothing.
        let refused: Vec<_> = slow.extract_if(.., |(_, arrived)| arrived.is_finished()).collect();
        assert_eq!((slow.len(), room.free()), (4, all - 4 * MAX));
        assert!(room.free() >= all - half - 4 * begin);
        for (_, arrived) in refused {
            assert!(matches!(arrived.await.unwrap(), Err(BodyError::NoRoomToArrive)));
        }
        // What comes at once is taken, and may fill all that is left; so are begins.
        let whole = read(Body::from(vec![7; MAX]), Some(MAX), MAX, PATIENCE, &room).await;
        let whole = whole.unwrap_or_else(|error| panic!("{error:?}"));
        let begun = wait(begin - 1);
        let rest = room.take(room.free() - begin).unwrap();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(!begun.1.is_finished() && room.free() == 0, "{}", room.free());
        drop((whole, rest));
        // One that ends gives its place among those that arrive to another, though it still holds its room.
        let (to, arrived) = slow.pop().unwrap();
        to.send(Ok(Bytes::from_static(b"7"))).unwrap();
        drop(to);
        let held = arrived.await.unwrap().unwrap_or_else(|error| panic!("{error:?}"));
        let next = wait(MAX - 1);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(!next.1.is_finished());
        drop(held);
    }

    #[tokio::test]
    async fn bytes_come_as_they_were_sent_and_all_their_memory_is_counted() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..200 {
            let max = random.usize(1..100_000);
            let length = random.usize(0..=max);
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            let (to, body) = pieces();
            let mut rest = Bytes::from(bytes.clone());
            while !rest.is_empty() {
                let piece = rest.split_to(random.usize(0..=rest.len().min(20_000)));
                to.send(Ok(piece)).unwrap();
            }
            drop(to);
            let room = BodyRoom::new(8, 100_000);
            let all = room.free();
            let declared = random.bool().then_some(bytes.len());
            let arrived = read(body, declared, max, PATIENCE, &room).await;
            let arrived = arrived.unwrap_or_else(|error| panic!("seed 1, round {round}: {error:?}"));
            assert_eq!(arrived.bytes, bytes, "seed 1, round {round}");
            let (taken, space) = (all - room.free(), arrived.bytes.capacity());
            assert!(space <= taken && taken < space + 2 * UNIT_BYTES, "round {round}: {taken} of {space}");
            assert!(space <= declared.unwrap_or(max).min(2 * bytes.len()), "round {round}: {space}");
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_says_why_and_gives_its_room_back() {
        const MAX: usize = 4_096;
        let table = [
            (Some(MAX + 1), vec![], BodyError::TooLarge { declared: Some(MAX + 1) }),
            (None, vec![Ok(4_096), Ok(1)], BodyError::TooLarge { declared: None }),
            (None, vec![Ok(1), Err("gone")], BodyError::BrokenOff("gone".to_owned())),
            (None, vec![Ok(1)], BodyError::Slow),
            (Some(MAX), vec![Ok(2_048), Ok(2_048)], BodyError::NoRoom),
        ];
        for (declared, sent, want) in table {
            let room = BodyRoom::new(1, MAX);
            let held = (want == BodyError::NoRoom).then(|| room.take(1_024).unwrap());
            let free = room.free();
            let (to, body) = pieces();
            for piece in sent {
                let piece = piece.map(|length| Bytes::from(vec![0; length])).map_err(std::io::Error::other);
                to.send(piece).unwrap();
            }
            let pace = Pace { whole: Duration::from_millis(1), ..PATIENCE };
            let got = read(body, declared, MAX, pace, &room).await;
            assert_eq!(got.map(|arrived| arrived.bytes), Err(want));
            assert_eq!(room.free(), free);
            drop(held);
        }
    }

    #[tokio::test]
    async fn slow_bodies_give_way_sooner_where_room_is_scarce() {
        const MAX: usize = 64 << 10;
        let part = Duration::from_millis(20);
        let pace = Pace { part, bytes_min: 64, parts: 1_000_000, ..PATIENCE };
        let room = Arc::new(BodyRoom::new(1, MAX));
        let wait = || {
            let (to, body) = pieces();
            to.send(Ok(Bytes::from_static(b"ab"))).unwrap();
            let room = room.clone();
            (to, tokio::spawn(async move { read(body, None, MAX, pace, &room).await }))
        };
        let slow: Vec<_> = (0..40).map(|_| wait()).collect();
        tokio::time::sleep(10 * part).await;
        assert!(slow.iter().all(|(_, arrived)| !arrived.is_finished()));
        // Each is small. Together they fill three quarters, and then none stays that does not come on.
        let more: Vec<_> = (0..16).map(|_| wait()).collect();
        for (_to, arrived) in slow.into_iter().chain(more) {
            let end = arrived.await.unwrap();
            if matches!(end, Err(BodyError::Stalled)) {
                break;
            }
        }
        while room.is_scarce() {
            tokio::time::sleep(part).await;
        }
        let honest = read(Body::from(vec![7; 1_024]), None, MAX, PATIENCE, &room).await;
        assert_eq!(honest.map(|body| body.bytes.len()), Ok(1_024));
        // Where there is room, the average counts.
        let pace = Pace { parts: 5, ..pace };
        let (_to, body) = pieces();
        let (roomy, begun) = (BodyRoom::new(8, MAX), tokio::time::Instant::now());
        assert!(matches!(read(body, None, MAX, pace, &roomy).await, Err(BodyError::Stalled)));
        assert!(begun.elapsed() >= 5 * part);
    }
}
