// Threads that share the rows of a frame, or the pixels of a network's map.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace fastmcd {

// The calling thread and count - 1 others. A job may take some 10 us, less than waking a thread does: so whoever waits
// looks again and again for about as long, and only then sleeps.
class Workers {
public:
    explicit Workers(int count) {  // fewer if the system gives no more
        threads_.reserve(std::size_t(count - 1));
        try {
            for (int band = 1; band < count; ++band) threads_.emplace_back([this, band] { serve(band); });
        } catch (const std::exception&) {}  // no thread, or no memory for one
    }
    ~Workers() {
        stop_ = true;
        start();
        for (std::thread& thread : threads_) thread.join();
    }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int count() const { return int(threads_.size()) + 1; }

    // Splits rows 0 to `rows` into a band per thread and calls work(band, first, end) for all of them at once. Returns
    // when all are done. Nothing may be thrown.
    template <class Work>
    void operator()(int rows, const Work& work) {
        if (threads_.empty()) return work(0, 0, rows);
        job_ = {[](const void* context, int band, int first, int end) {
                    (*static_cast<const Work*>(context))(band, first, end);
                },
                &work, rows};
        busy_.store(unsigned(threads_.size()), std::memory_order_relaxed);
        start();
        do_band(0);
        for (unsigned left; (left = busy_.load(std::memory_order_acquire)) != 0;) wait_while(busy_, left);
    }

private:
    struct Job {
        void (*call)(const void* work, int band, int first, int end) = nullptr;
        const void* work = nullptr;
        int rows = 0;
    };

    static constexpr int kLooks = 1000;

    static void wait_while(const std::atomic<unsigned>& value, unsigned old) {
        for (int i = 0; i < kLooks; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        value.wait(old, std::memory_order_acquire);
    }

    void start() {
        jobs_.fetch_add(1, std::memory_order_release);
        jobs_.notify_all();
    }

    void serve(int band) {
        for (unsigned done = 0;; ++done) {
            wait_while(jobs_, done);
            if (stop_) return;
            do_band(band);
            if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
        }
    }

    void do_band(int band) const {
        const auto row = [&](int b) { return int((long long)job_.rows * b / count()); };
        job_.call(job_.work, band, row(band), row(band + 1));
    }

    Job job_;
    std::atomic<unsigned> jobs_ = 0;  // given out so far; begins again at 0 after 2^32
    std::atomic<unsigned> busy_ = 0;  // threads that have not yet done the last one
    std::atomic<bool> stop_ = false;
    std::vector<std::thread> threads_;
};

inline Workers& alone() {  // the calling thread only; holds nothing, so all may share it
    static Workers one(1);
    return one;
}

}  // namespace fastmcd
