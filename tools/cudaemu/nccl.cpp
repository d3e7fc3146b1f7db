// The part of NCCL that CubeCL calls, for several emulated devices: their memory is the process's own and what runs on them
// has run when a call returns, so that a collective waits for its ranks and adds in their order. Sums of f32 alone.
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
enum { OK = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, F32 = 7, SUM = 0, AVERAGE = 4 };

struct UniqueId { char bytes[128]; };

// The ranks of one communicator.
struct Group {
    std::mutex mutex;
    std::condition_variable changed;
    int joined = 0, brought = 0;
    uint64_t round = 0;
    std::vector<const float*> sources;
    // What was sent from one rank to another and not received yet.
    std::map<std::pair<int, int>, std::deque<std::vector<char>>> mail;
};

struct Communicator { std::shared_ptr<Group> group; int rank, size; };

std::mutex groups_mutex;
std::map<uint64_t, std::shared_ptr<Group>> groups;
uint64_t last_id = 0;

size_t width(int type) {
    const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && type < 12 ? widths[type] : 0;
}

// Waits until all ranks are here.
void meet(Group& group, int size, std::unique_lock<std::mutex>& lock) {
    uint64_t round = group.round;
    if (++group.brought == size) {
        group.brought = 0;
        group.round++;
        group.changed.notify_all();
    } else {
        group.changed.wait(lock, [&] { return group.round != round; });
    }
}
}  // namespace

API ncclGetVersion(int* version) { *version = 22800; return OK; }
extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(int) { return "refused by the emulated NCCL"; }

API ncclGetUniqueId(UniqueId* id) {
    std::lock_guard lock(groups_mutex);
    memset(id, 0, sizeof *id);
    last_id++;
    memcpy(id->bytes, &last_id, sizeof last_id);
    return OK;
}

API ncclCommInitRank(Communicator** out, int size, UniqueId id, int rank) {
    uint64_t key;
    memcpy(&key, id.bytes, sizeof key);
    std::shared_ptr<Group> group;
    {
        std::lock_guard lock(groups_mutex);
        auto& slot = groups[key];
        if (!slot) slot = std::make_shared<Group>();
        group = slot;
    }
    if (rank < 0 || rank >= size) return INVALID_ARGUMENT;
    std::unique_lock lock(group->mutex);
    group->sources.resize((size_t)size);
    group->joined++;
    group->changed.notify_all();
    group->changed.wait(lock, [&] { return group->joined == size; });
    *out = new Communicator{group, rank, size};
    return OK;
}

API ncclCommDestroy(Communicator* comm) { delete comm; return OK; }
API ncclCommAbort(Communicator* comm) { delete comm; return OK; }
API ncclGroupStart() { return OK; }
API ncclGroupEnd() { return OK; }

API ncclAllReduce(const float* from, float* to, size_t count, int type, int operation, Communicator* comm, void*) {
    if (type != F32 || (operation != SUM && operation != AVERAGE)) return INVALID_USAGE;
    Group& group = *comm->group;
    std::vector<float> sum(count, 0.0f);
    {
        std::unique_lock lock(group.mutex);
        group.sources[(size_t)comm->rank] = from;
        meet(group, comm->size, lock);
    }
    for (const float* source : group.sources)
        for (size_t i = 0; i < count; i++) sum[i] += source[i];
    if (operation == AVERAGE)
        for (float& value : sum) value /= (float)comm->size;
    std::unique_lock lock(group.mutex);
    // Nobody writes before all have read.
    meet(group, comm->size, lock);
    memcpy(to, sum.data(), count * sizeof(float));
    return OK;
}

API ncclSend(const void* from, size_t count, int type, int peer, Communicator* comm, void*) {
    std::lock_guard lock(comm->group->mutex);
    const char* bytes = (const char*)from;
    comm->group->mail[{comm->rank, peer}].emplace_back(bytes, bytes + count * width(type));
    comm->group->changed.notify_all();
    return OK;
}

API ncclRecv(void* to, size_t count, int type, int peer, Communicator* comm, void*) {
    std::unique_lock lock(comm->group->mutex);
    auto& mail = comm->group->mail[{peer, comm->rank}];
    comm->group->changed.wait(lock, [&] { return !mail.empty(); });
    if (mail.front().size() != count * width(type)) return INVALID_USAGE;
    memcpy(to, mail.front().data(), mail.front().size());
    mail.pop_front();
    return OK;
}
