// A loop over several threads: a small pool that sleeps when it has nothing to do.
#pragma once

#include <cstdint>
#include <functional>

namespace hardy {

// Calls work(begin, end) on parts of 0..count of at most `grain` items, on up to `threads` threads, the caller among
// them, and returns when all is done. Which thread does which part varies; `work` must not throw.
//
// Several callers at once are safe: the pool serves one, the others do their work themselves. After a fork the child
// starts a pool of its own.
void parallel_for(int64_t count, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& work);

}  // namespace hardy
