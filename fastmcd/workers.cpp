#include "workers.hpp"

#include <system_error>

namespace fastmcd {

Workers::Workers(int count) {
    for (int band = 1; band < count; ++band) {
        try {
            threads_.emplace_back([this, band] { serve(band); });
        } catch (const std::system_error&) {
            break;
        }
    }
}

Workers::~Workers() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    start_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Workers::run(const Job& job) {
    if (threads_.empty()) return do_band(job, 0);
    {
        const std::lock_guard lock(mutex_);
        job_ = job;
        busy_ = int(threads_.size());
        ++jobs_;
    }
    start_.notify_all();
    do_band(job, 0);
    std::unique_lock lock(mutex_);
    finish_.wait(lock, [this] { return busy_ == 0; });
}

void Workers::serve(int band) {
    for (unsigned done = 0;;) {
        Job job;
        {
            std::unique_lock lock(mutex_);
            start_.wait(lock, [&] { return stop_ || jobs_ != done; });
            if (stop_) return;
            done = jobs_;
            job = job_;
        }
        do_band(job, band);
        const std::lock_guard lock(mutex_);
        if (--busy_ == 0) finish_.notify_one();
    }
}

}  // namespace fastmcd
