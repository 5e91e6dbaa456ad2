// For the drop-ins for torch's convolutions, activations and Adam: the threads that torch computes with.

#pragma once

#include <atomic>
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

// As ppo/compute/cpp.py has it. GOMP_parallel of torch's OpenMP library calls function(data) on each thread.
struct Team {
    void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
    int64_t threads;
};

// A job of `parts` parts, which the threads of a team take in turn.
template <class Work>
struct Job {
    const Work& work;
    int64_t items, parts;
    std::atomic<int64_t> next{0};

    static void run(void* pointer) {
        Job& job = *static_cast<Job*>(pointer);
        for (int64_t part; (part = job.next++) < job.parts;)
            job.work(part, job.items * part / job.parts, job.items * (part + 1) / job.parts);
    }
};

// Calls work(part, first item, end of its items) for as many parts as threads. Nothing may be thrown there.
template <class Work>
void share(const Team& team, int64_t items, const Work& work) {
    Job<Work> job{work, items, team.threads};
    if (team.threads == 1) return Job<Work>::run(&job);
    team.parallel(Job<Work>::run, &job, unsigned(team.threads), 0);
}
