use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicIsize, Ordering};

use service::memory_budget::MemoryBudget;

use crate::C;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Budget that allocations are compared with.
pub static BUDGET: OnceLock<MemoryBudget> = OnceLock::new();

static LIVE: AtomicIsize = AtomicIsize::new(0);

/// Maximum of the bytes allocated beyond what is reserved.
static EXCESS: AtomicIsize = AtomicIsize::new(0);

struct Counting;

fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        let reserved = BUDGET.get().map_or(0, MemoryBudget::used);
        EXCESS.fetch_max(live - (C * reserved as f64) as isize, Ordering::Relaxed);
    }
}

// SAFETY: all calls are forwarded to the system allocator, and the counters do not allocate.
#[allow(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's contract is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
        count(-layout.size().cast_signed());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block exist while the content is copied.
        count(size.cast_signed());
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(-layout.size().cast_signed());
        moved
    }
}

/// Starts a measurement. Memory that is allocated already does not count.
pub fn start() -> isize {
    let live = LIVE.load(Ordering::Relaxed);
    EXCESS.store(isize::MIN, Ordering::Relaxed);
    live
}

/// Maximum of the bytes allocated since [`start`] beyond [`C`] times what was reserved at that moment.
pub fn excess_since(start: isize) -> isize {
    EXCESS.load(Ordering::Relaxed).saturating_sub(start)
}
