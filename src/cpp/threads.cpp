#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#ifdef _WIN32
#include <process.h>
static int process_id() { return _getpid(); }
#else
#include <unistd.h>
static int process_id() { return getpid(); }
#endif

namespace hardy {
namespace {

using Work = std::function<void(int64_t, int64_t)>;

// Threads that wait on a condition variable, never in a busy loop, which would take the cores from torch's threads.
class Pool {
 public:
  const int owner = process_id();

  // Whether the pool was free and has done the work.
  bool try_run(int64_t count, int64_t grain, int threads, const Work& work) {
    std::unique_lock<std::mutex> only(busy_, std::try_to_lock);
    if (!only.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(threads - 1);
      work_ = &work;
      count_ = count;
      grain_ = grain;
      next_.store(0, std::memory_order_relaxed);
      places_ = std::min(threads - 1, started_);
      ++job_;
    }
    for (int i = 0; i < places_at_start(threads); ++i) wake_.notify_one();
    take_parts();
    // Nobody may join any more; those who did are waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    places_ = 0;
    done_.wait(lock, [this] { return working_ == 0; });
    work_ = nullptr;
    return true;
  }

 private:
  int places_at_start(int threads) const { return std::min(threads - 1, started_); }

  void grow(int threads) {
    while (started_ < threads) {
      try {
        std::thread(&Pool::serve, this).detach();
      } catch (const std::system_error&) {
        return;  // the system has no more threads; those that there are do the work
      }
      ++started_;
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    uint64_t seen = 0;
    for (;;) {
      wake_.wait(lock, [&] { return places_ > 0 && job_ != seen; });
      seen = job_;
      --places_;
      ++working_;
      lock.unlock();
      take_parts();
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  void take_parts() {
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= count_) return;
      (*work_)(begin, std::min(begin + grain_, count_));
    }
  }

  std::mutex busy_;   // held by the caller that is served
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, done_;
  int started_ = 0, places_ = 0, working_ = 0;
  uint64_t job_ = 0;
  const Work* work_ = nullptr;
  int64_t count_ = 0, grain_ = 1;
  std::atomic<int64_t> next_{0};
};

// Never destroyed, as its threads are never joined: they sleep until the process ends. A child of fork has none of
// its parent's threads, so it gets a pool of its own; the parent's, whose locks may be held for good, is left alone.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  Pool* here = current.load(std::memory_order_acquire);
  while (here == nullptr || here->owner != process_id()) {
    Pool* fresh = new Pool;
    if (current.compare_exchange_strong(here, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
  }
  return *here;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, const Work& work) {
  const int64_t parts = (count + grain - 1) / grain;
  const int useful = static_cast<int>(std::min<int64_t>(threads, parts));
  if (count <= 0) return;
  if (useful < 2 || !pool().try_run(count, grain, useful, work)) work(0, count);
}

}  // namespace hardy
