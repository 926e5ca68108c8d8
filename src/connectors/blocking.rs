//! A split reader over blocking file reads: reads one chunk ahead, and waits for a file to grow.
//!
//! ```text
//!  blocking pool   read 2 ───┐ read 3 ───┐
//!  runtime         decode 1  └ decode 2  └ decode 3
//! ```
//!
//! Invariant: between two polls the file's state is either here or in the pool's task, whose handle
//! is kept; so dropping the future of `next` loses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::contracts::{Clock, Error, Fetch, Position, Result, SplitReader};

/// Bytes of records that a chunk aims at: it fits a core's L2 cache between reading and decoding.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Reads smaller than this are done in place: handing them to the pool costs more (about 20 µs).
const INLINE_BYTES: u64 = 128 << 10;

/// Pauses between two looks at a file that does not grow: doubled from the first to the last. The last
/// bounds the latency from a write to its read. A look costs about 2 µs, its timer five times as much: at 12 ms the
/// four shards of an idle job took 1.9 % of a core.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// At rest, a reader says `CaughtUp` this often.
const REPORT: Duration = Duration::from_millis(60);

/// One split's blocking side.
pub(crate) trait ChunkReader: Send + 'static {
    /// The next records, or `None` when everything that is there has been read.
    fn read(&mut self) -> Result<Option<Fetch>>;

    /// Bytes that have come since the last read ended with `None`; may be a guess. Cheap.
    fn unread(&mut self) -> Result<u64>;

    /// Whether more can come after a `None`.
    fn grows(&self) -> bool;

    /// Where reading stands when nothing has been read yet, where that is known.
    fn position(&self) -> Option<Position> {
        None
    }
}

type Done<R> = (Box<R>, Result<Option<Fetch>>);

enum State<R> {
    Here(Box<R>),
    Reading(JoinHandle<Done<R>>),
    /// The task that had the reader died.
    Lost,
}

/// Makes a [`SplitReader`] of a [`ChunkReader`].
pub(crate) struct BlockingReader<R: ChunkReader> {
    state: State<R>,
    clock: Arc<dyn Clock>,
    pause: Duration,
    rested: Duration,
}

impl<R: ChunkReader> BlockingReader<R> {
    pub(crate) fn new(reader: R, clock: Arc<dyn Clock>) -> Self {
        Self { state: State::Here(Box::new(reader)), clock, pause: FIRST_PAUSE, rested: Duration::ZERO }
    }

    fn start(&mut self, mut reader: Box<R>) {
        self.state = State::Reading(tokio::task::spawn_blocking(move || {
            let result = reader.read();
            (reader, result)
        }));
    }

    /// Waits for the file to grow; true when it has, false when it is time to say `CaughtUp`.
    async fn rest(&mut self) -> Result<bool> {
        loop {
            self.clock.sleep(self.pause).await;
            self.rested += self.pause;
            let State::Here(reader) = &mut self.state else { return Ok(true) };
            if reader.unread()? > 0 {
                return Ok(true);
            }
            let at_rest = self.pause >= LAST_PAUSE;
            self.pause = (self.pause * 2).min(LAST_PAUSE);
            if !at_rest || self.rested >= REPORT {
                self.rested = Duration::ZERO;
                return Ok(false);
            }
        }
    }
}

#[async_trait]
impl<R: ChunkReader> SplitReader for BlockingReader<R> {
    async fn next(&mut self) -> Result<Fetch> {
        loop {
            let result = match &mut self.state {
                State::Reading(handle) => {
                    let done = handle.await;
                    self.state = State::Lost;
                    let (reader, result) = done.map_err(|e| Error::internal("a reading task died").caused_by(e))?;
                    if matches!(result, Ok(Some(_))) {
                        self.start(reader);
                    } else {
                        self.state = State::Here(reader);
                    }
                    result
                }
                State::Here(reader) => {
                    if reader.grows() && reader.unread()? <= INLINE_BYTES {
                        reader.read()
                    } else {
                        match std::mem::replace(&mut self.state, State::Lost) {
                            State::Here(reader) => self.start(reader),
                            other => self.state = other,
                        }
                        continue;
                    }
                }
                State::Lost => return Err(Error::internal("a reader was used after it had failed")),
            };
            match result? {
                Some(fetch) => {
                    self.pause = FIRST_PAUSE;
                    self.rested = Duration::ZERO;
                    return Ok(fetch);
                }
                None => {
                    let State::Here(reader) = &self.state else { continue };
                    if !reader.grows() {
                        return Ok(Fetch::Finished);
                    }
                    if !self.rest().await? {
                        return Ok(Fetch::CaughtUp);
                    }
                }
            }
        }
    }

    fn position(&self) -> Option<Position> {
        match &self.state {
            State::Here(reader) => reader.position(),
            // Read ahead: what has been given out is behind.
            State::Reading(_) | State::Lost => None,
        }
    }
}

/// Keeps the last buffers that were handed out, to use their memory again once nobody else has them.
/// Fresh pages cost about as much as reading them.
#[derive(Debug, Default)]
pub(crate) struct BufferPool(VecDeque<Buffer>);

/// Buffers kept by one pool; bounds what a reader at rest holds.
const POOLED: usize = 4;

impl BufferPool {
    /// An empty vector with room for `capacity` bytes.
    pub(crate) fn take(&mut self, capacity: usize) -> Vec<u8> {
        for _ in 0..self.0.len() {
            let Some(buffer) = self.0.pop_front() else { break };
            match buffer.into_vec::<u8>() {
                Ok(mut vec) if vec.capacity() >= capacity && vec.capacity() <= capacity.saturating_mul(4) => {
                    vec.clear();
                    return vec;
                }
                Ok(_) => {}
                Err(shared) => self.0.push_back(shared),
            }
        }
        Vec::with_capacity(capacity)
    }

    /// Makes a buffer of `vec` and remembers it.
    pub(crate) fn give(&mut self, vec: Vec<u8>) -> Buffer {
        let buffer = Buffer::from_vec(vec);
        if self.0.len() >= POOLED {
            self.0.pop_front();
        }
        self.0.push_back(buffer.clone());
        buffer
    }
}
