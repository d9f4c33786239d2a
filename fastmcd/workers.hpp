// Threads that share the rows of a frame.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fastmcd {

// The calling thread and count - 1 others, which sleep between calls.
class Workers {
public:
    explicit Workers(int count);  // fewer if the system gives no more
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int count() const { return int(threads_.size()) + 1; }

    // Splits rows 0 to `rows` into a band per thread and calls work(band, first, end) for all of them at once. Returns
    // when all are done. Nothing may be thrown.
    template <class Work>
    void operator()(int rows, const Work& work) {
        run({[](const void* context, int band, int first, int end) { (*static_cast<const Work*>(context))(band, first, end); },
             &work, rows});
    }

private:
    struct Job {
        void (*call)(const void* work, int band, int first, int end) = nullptr;
        const void* work = nullptr;
        int rows = 0;
    };

    void run(const Job& job);
    void serve(int band);
    void do_band(const Job& job, int band) const {
        job.call(job.work, band, job.rows * band / count(), job.rows * (band + 1) / count());
    }

    std::mutex mutex_;
    std::condition_variable start_, finish_;
    Job job_;
    unsigned jobs_ = 0;  // given out so far
    int busy_ = 0;       // threads that have not yet done the last one
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

inline Workers& alone() {  // the calling thread only; holds nothing, so all may share it
    static Workers one(1);
    return one;
}

}  // namespace fastmcd
