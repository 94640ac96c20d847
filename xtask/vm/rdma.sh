# Two Soft-RoCE cards in the guest, rxe0 and rxe1, that reach each other over a pair of
# virtual network devices; put in front of what `cargo xtask vm test-rdma` runs.
rdma_up() {
    for module in veth ib_uverbs rdma_rxe rdma_ucm; do
        modprobe "$module" || return 1
    done
    ip link set lo up
    ip link add veth0 type veth peer name veth1
    for i in 0 1; do
        ip addr add "10.9.0.$((i + 1))/24" dev "veth$i"
        ip link set "veth$i" up
    done
    # Both ends are ours: without these the kernel drops what one sends to the other.
    for folder in /proc/sys/net/ipv4/conf/*; do
        echo 1 > "$folder/accept_local"
        echo 0 > "$folder/rp_filter"
    done
    for i in 0 1; do
        rdma link add "rxe$i" type rxe netdev "veth$i" || return 1
    done
}
rdma_up || { echo "vm: no Soft-RoCE cards" >&2; exit 1; }
ulimit -l unlimited

# Median of a read of 64 bytes in microseconds, by perftest.
bare_read() {
    ib_read_lat -d rxe0 -s 64 -n 1000 > /run/bare-server 2>&1 &
    sleep 2
    ib_read_lat -d rxe1 -s 64 -n 1000 10.9.0.1 2>&1 | awk '$1 == 64 { print $5 }'
    wait
}
