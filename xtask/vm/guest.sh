# Second program of the guest (`cargo xtask vm`), in the host's root: brings the virtual
# NVDIMMs up, runs /run/out/command.sh and hands its exit status to the host.
#   /run/pmem   ext4 with -o dax on the first NVDIMM
#   /dev/dax1.0 the second NVDIMM as a device
# What is written elsewhere is gone when the machine stops, but for /run/out.
# Cards for RDMA are made by rdma.sh, for those who want them.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
stop() {
    sync
    echo o > /proc/sysrq-trigger
    while :; do sleep 1; done
}
fail() {
    echo "$1" > /run/out/failed
    stop
}
. /run/out/kernel # KERNEL (its version), MODULES (where they are)

mkdir -p "/lib/modules/$KERNEL"
mount --bind "$MODULES" "/lib/modules/$KERNEL"
# ndctl's package adds options there that keep libnvdimm from loading.
rm -f /etc/modprobe.d/nvdimm*
for module in virtio_console nfit nd_pmem device_dax dax_pmem ext4 crc32c_generic; do
    modprobe "$module" || fail "cannot load the module $module"
done
ln -sfn /proc/self/fd /dev/fd

namespace() { # number, mode
    ndctl create-namespace -f -e "namespace$1.0" -m "$2" > /dev/null 2> /run/out/ndctl ||
        fail "cannot make NVDIMM $1 $2: $(cat /run/out/ndctl)"
}
# A block device of persistent memory can do DAX once it is said where its pages are described.
[ "$(cat /sys/block/pmem0/queue/dax)" = 1 ] || namespace 0 fsdax
[ -e /dev/dax1.0 ] || namespace 1 devdax
mkdir -p /run/pmem
# Only an NVDIMM that holds nothing gets a file system: after a power cut what is there counts.
[ -n "$(blkid /dev/pmem0)" ] || mkfs.ext4 -q /dev/pmem0 || fail "cannot make a file system"
mount -t ext4 -o dax=always /dev/pmem0 /run/pmem || fail "cannot mount /dev/pmem0 with DAX"

for port in /sys/class/virtio-ports/*; do
    case "$(cat "$port/name")" in
        out) out=/dev/${port##*/} ;;
        err) err=/dev/${port##*/} ;;
    esac
done
echo "up after $(cut -d' ' -f1 /proc/uptime) s" > /run/out/up
# A port can be open once only, which a program that opens /dev/stderr does not expect.
{ { bash /run/out/command.sh 2>&3 3>&- < /dev/null; echo $? > /run/status; } | cat > "$out"; } 3>&1 | cat > "$err"
umount /run/pmem || echo "vm: /run/pmem is still in use"
cp /run/status /run/out/status
stop
