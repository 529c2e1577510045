use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::entry::Entry;
use crate::form;
use crate::keys::AnswerKey;

/// No answer takes more than this part of what is held near, so that a few large ones do not push out all the others.
const SHARE: u64 = 8;

/// Parts with a lock each. Fewer than [`SHARE`], since each has room for the largest answer.
const SHARDS: usize = 4;

/// What an answer costs beside its form, in bytes: its key, its place in two tables, and what the allocator adds. Measured over
/// a hundred thousand small ones.
const BOOK_KEEPING: u64 = 112;

/// A guess at what answers take, in bytes; the table that remembers what was pushed out goes by it.
const USUAL: u64 = 512;

/// Answers in this process: in their binary form, since a dozen small allocations each would take three times the memory.
/// What is asked again stays; what was asked once makes room.
pub(crate) struct Near {
    answers: Cache<AnswerKey, Held, Weight>,
    bytes: u64,
    ttl: Duration,
    /// Times are seconds since then, which jumping clocks do not change.
    begun: Instant,
}

#[derive(Clone)]
struct Held {
    form: Arc<[u8]>,
    /// When it has stayed long enough.
    until: u32,
}

#[derive(Clone)]
struct Weight;

impl Weighter<AnswerKey, Held> for Weight {
    fn weight(&self, _: &AnswerKey, held: &Held) -> u64 {
        weight(&held.form)
    }
}

fn weight(form: &[u8]) -> u64 {
    form.len() as u64 + BOOK_KEEPING
}

impl Near {
    /// `bytes` bounds what is held; `ttl` is how long an answer stays.
    pub fn new(bytes: u64, ttl: Duration) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(usize::try_from(bytes / USUAL).unwrap_or(usize::MAX))
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are said");
        let answers = Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { answers, bytes, ttl, begun: Instant::now() }
    }

    pub fn get(&self, key: AnswerKey) -> Option<Entry> {
        let Held { form, until } = self.answers.get(&key)?;
        if until <= self.now() {
            self.answers.remove_if(&key, |held| held.until == until);
            return None;
        }
        Entry::from_form(form, key)
    }

    /// The most bytes that an answer may take.
    pub fn largest(&self) -> u64 {
        self.bytes / SHARE
    }

    /// Stores a result, unless it is larger than [`Self::largest`]; returns whether it did.
    pub fn insert(&self, key: AnswerKey, form: &Arc<[u8]>) -> bool {
        let fits = weight(form) <= self.largest();
        if fits {
            let until = self.now().saturating_add(u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX));
            self.answers.insert(key, Held { form: Arc::clone(form), until });
        }
        fits
    }

    /// Forgets what belongs to `model`, or everything, and says how many answers that were.
    pub fn forget(&self, model: Option<&str>) -> u64 {
        let before = self.answers.len();
        self.answers.retain(|_, held| model.is_some_and(|model| form::model(&held.form) != Some(model)));
        before.saturating_sub(self.answers.len()) as u64
    }

    fn now(&self) -> u32 {
        u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}
