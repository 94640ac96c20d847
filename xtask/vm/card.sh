# A Soft-RoCE card in the guest, rxe0, on the network card at the end of a cable (`cargo xtask vm
# failover`); $1 is the guest's address.
card_up() {
    for module in virtio_net ib_uverbs rdma_rxe; do
        modprobe "$module" || return 1
    done
    ip link set lo up
    ip addr add "$1/24" dev eth0 && ip link set eth0 up || return 1
    rdma link add rxe0 type rxe netdev eth0
}
ulimit -l unlimited
