// Threads that work on the steps of a network together.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace xnor {

// Runs a function on every thread at once; the caller is thread 0. A step takes some 50 us, far less than waking a thread does, so the
// others wait by looking again and again while a run lasts, and sleep between runs.
class Team {
public:
    explicit Team(int threads) : size(threads) {
        for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
    }
    ~Team() {
        stop_ = true;
        begin();
        for (auto& worker : workers_) worker.join();
    }
    // Call begin() before a series of run() and end() after it.
    void begin() {
        awake_ = true;
        awake_.notify_all();
    }
    void end() { awake_ = false; }
    void run(const std::function<void(int)>& work) {
        work_ = &work;
        left_.store(size - 1, std::memory_order_relaxed);
        turn_.fetch_add(1, std::memory_order_release);
        work(0);
        for (unsigned i = 1; left_.load(std::memory_order_acquire) != 0; ++i) pause(i);
    }
    const int size;

private:
    // Now and then, lets another thread have the core: the one waited for, if there are more threads than cores.
    static void pause(unsigned i) {
        if (i % 4096 == 0) std::this_thread::yield();
    }
    void serve(int t) {
        for (unsigned seen = 0, i = 1;; ++i) {
            awake_.wait(false);
            if (stop_) return;
            if (turn_.load(std::memory_order_acquire) == seen) {
                pause(i);
                continue;
            }
            ++seen;
            (*work_)(t);
            left_.fetch_sub(1, std::memory_order_release);
        }
    }
    std::atomic<bool> awake_ = false, stop_ = false;
    std::atomic<unsigned> turn_ = 0, left_ = 0;
    const std::function<void(int)>* work_ = nullptr;
    std::vector<std::thread> workers_;
};

}  // namespace xnor
