# Completion of drbdadm and drbdsetup for bash. Written from the tables of commands and options;
# `UPDATE=1 cargo test -p drbd-tools --test generated` writes it anew.

_drbdadm() {
    local cur=${COMP_LINE:0:COMP_POINT} command= word options=
    cur=${cur##* }
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case " attach disk-options detach connect net-options disconnect up resource-options peer-device-options down primary secondary invalidate invalidate-remote outdate resize verify pause-sync resume-sync adjust adjust-with-progress wait-connect wait-sync wait-con-int role cstate dstate status peer-role dump dump-xml create-md show-gi get-gi dump-md dump-superblock wipe-md apply-al repair-md forget-peer hidden-commands new-peer del-peer new-path del-path sh-nop sh-resources sh-resource sh-list-config-file sh-list-adjustable sh-mod-parms sh-dev sh-udev sh-minor sh-ll-dev sh-md-dev sh-md-idx sh-ip sh-lr-of proxy-up proxy-down new-resource suspend-io resume-io set-gi new-current-uuid check-resize new-minor del-minor " in
            *" $word "*) command=$word; break ;;
        esac
    done
    if [ -z "$command" ]; then
        options="attach disk-options detach connect net-options disconnect up resource-options peer-device-options down primary secondary invalidate invalidate-remote outdate resize verify pause-sync resume-sync adjust adjust-with-progress wait-connect wait-sync wait-con-int role cstate dstate status peer-role dump dump-xml create-md show-gi get-gi dump-md dump-superblock wipe-md apply-al repair-md forget-peer hidden-commands new-peer del-peer new-path del-path sh-nop sh-resources sh-resource sh-list-config-file sh-list-adjustable sh-mod-parms sh-dev sh-udev sh-minor sh-ll-dev sh-md-dev sh-md-idx sh-ip sh-lr-of proxy-up proxy-down new-resource suspend-io resume-io set-gi new-current-uuid check-resize new-minor del-minor --stacked --dry-run --verbose --config-file= --config-to-test= --config-to-exclude= --drbdsetup= --drbdmeta= --drbd-proxy-ctl= --sh-varname= --version --setup-option= --help"
    elif [[ $cur != -* ]]; then
        options=$( (drbdadm sh-resources; drbdadm -S sh-resources; echo all) 2>/dev/null)
    fi
    [[ $cur != -* ]] || case $command in
        attach) options="--size= --on-io-error=pass_on --on-io-error=call-local-io-error --on-io-error=detach --disk-barrier --disk-barrier=no --disk-flushes --disk-flushes=no --disk-drain --disk-drain=no --md-flushes --md-flushes=no --resync-after= --al-extents= --al-updates --al-updates=no --discard-zeroes-if-aligned --discard-zeroes-if-aligned=no --disable-write-same --disable-write-same=no --disk-timeout= --read-balancing=prefer-local --read-balancing=prefer-remote --read-balancing=round-robin --read-balancing=least-pending --read-balancing=when-congested-remote --read-balancing=32K-striping --read-balancing=64K-striping --read-balancing=128K-striping --read-balancing=256K-striping --read-balancing=512K-striping --read-balancing=1M-striping --rs-discard-granularity= --bitmap --bitmap=no" ;;
        disk-options) options="--on-io-error=pass_on --on-io-error=call-local-io-error --on-io-error=detach --disk-barrier --disk-barrier=no --disk-flushes --disk-flushes=no --disk-drain --disk-drain=no --md-flushes --md-flushes=no --resync-after= --al-extents= --al-updates --al-updates=no --discard-zeroes-if-aligned --discard-zeroes-if-aligned=no --disable-write-same --disable-write-same=no --disk-timeout= --read-balancing=prefer-local --read-balancing=prefer-remote --read-balancing=round-robin --read-balancing=least-pending --read-balancing=when-congested-remote --read-balancing=32K-striping --read-balancing=64K-striping --read-balancing=128K-striping --read-balancing=256K-striping --read-balancing=512K-striping --read-balancing=1M-striping --rs-discard-granularity= --bitmap --bitmap=no" ;;
        detach) options="--force --force=no --diskless --diskless=no" ;;
        connect) options="--tentative --tentative=no --discard-my-data --discard-my-data=no" ;;
        net-options) options="--protocol=A --protocol=B --protocol=C --timeout= --max-epoch-size= --connect-int= --ping-int= --sndbuf-size= --rcvbuf-size= --ko-count= --allow-two-primaries --allow-two-primaries=no --cram-hmac-alg= --shared-secret= --after-sb-0pri=disconnect --after-sb-0pri=discard-younger-primary --after-sb-0pri=discard-older-primary --after-sb-0pri=discard-zero-changes --after-sb-0pri=discard-least-changes --after-sb-0pri=discard-local --after-sb-0pri=discard-remote --after-sb-1pri=disconnect --after-sb-1pri=consensus --after-sb-1pri=discard-secondary --after-sb-1pri=call-pri-lost-after-sb --after-sb-1pri=violently-as0p --after-sb-2pri=disconnect --after-sb-2pri=call-pri-lost-after-sb --after-sb-2pri=violently-as0p --always-asbp --always-asbp=no --rr-conflict=disconnect --rr-conflict=call-pri-lost --rr-conflict=violently --rr-conflict=retry-connect --rr-conflict=auto-discard --ping-timeout= --data-integrity-alg= --tcp-cork --tcp-cork=no --on-congestion=block --on-congestion=pull-ahead --on-congestion=disconnect --congestion-fill= --congestion-extents= --csums-alg= --csums-after-crash-only --csums-after-crash-only=no --verify-alg= --use-rle --use-rle=no --socket-check-timeout= --fencing=dont-care --fencing=resource-only --fencing=resource-and-stonith --max-buffers= --allow-remote-read --allow-remote-read=no --tls --tls=no --tls-keyring= --tls-privkey= --tls-certificate= --rdma-ctrl-rcvbuf-size= --rdma-ctrl-sndbuf-size=" ;;
        disconnect) options="--force --force=no" ;;
        resource-options) options="--cpu-mask= --on-no-data-accessible=io-error --on-no-data-accessible=suspend-io --auto-promote --auto-promote=no --peer-ack-window= --peer-ack-delay= --twopc-timeout= --twopc-retry-timeout= --auto-promote-timeout= --max-io-depth= --quorum=off --quorum=majority --quorum=all --on-no-quorum=io-error --on-no-quorum=suspend-io --quorum-minimum-redundancy=off --quorum-minimum-redundancy=majority --quorum-minimum-redundancy=all --on-suspended-primary-outdated=disconnect --on-suspended-primary-outdated=force-secondary --drbd8-api-compatibility --drbd8-api-compatibility=no" ;;
        peer-device-options) options="--resync-rate= --c-plan-ahead= --c-delay-target= --c-fill-target= --c-max-rate= --c-min-rate= --bitmap --bitmap=no --resync-without-replication --resync-without-replication=no --peer-tiebreaker --peer-tiebreaker=no" ;;
        primary) options="--force --force=no" ;;
        secondary) options="--force --force=no" ;;
        invalidate) options="--force --sync-from-peer-node-id= --reset-bitmap --reset-bitmap=no" ;;
        invalidate-remote) options="--reset-bitmap --reset-bitmap=no" ;;
        resize) options="--size= --assume-peer-has-space --assume-peer-has-space=no --assume-clean --assume-clean=no --al-stripes= --al-stripe-size-kB=" ;;
        verify) options="--start= --stop=" ;;
        adjust) options="--skip-disk --skip-net --discard-my-data --tentative" ;;
        dstate) options="--force" ;;
        status) options="--statistics" ;;
        create-md) options="--max-peers= --peer-max-bio-size= --al-stripes= --al-stripe-size-kB= --force --effective-size= --bitmap-block-size= --diskful-peers= --initial-current-uuid= --consistent --uptodate --peers-outdated --rotate-uuids" ;;
        show-gi) options="--force" ;;
        get-gi) options="--force" ;;
        dump-md) options="--force" ;;
        dump-superblock) options="--force" ;;
        wipe-md) options="--force" ;;
        apply-al) options="--force" ;;
        repair-md) options="--tentative --force" ;;
        forget-peer) options="--force" ;;
        new-peer) options="--transport= --load-balance-paths --load-balance-paths=no --protocol=A --protocol=B --protocol=C --timeout= --max-epoch-size= --connect-int= --ping-int= --sndbuf-size= --rcvbuf-size= --ko-count= --allow-two-primaries --allow-two-primaries=no --cram-hmac-alg= --shared-secret= --after-sb-0pri=disconnect --after-sb-0pri=discard-younger-primary --after-sb-0pri=discard-older-primary --after-sb-0pri=discard-zero-changes --after-sb-0pri=discard-least-changes --after-sb-0pri=discard-local --after-sb-0pri=discard-remote --after-sb-1pri=disconnect --after-sb-1pri=consensus --after-sb-1pri=discard-secondary --after-sb-1pri=call-pri-lost-after-sb --after-sb-1pri=violently-as0p --after-sb-2pri=disconnect --after-sb-2pri=call-pri-lost-after-sb --after-sb-2pri=violently-as0p --always-asbp --always-asbp=no --rr-conflict=disconnect --rr-conflict=call-pri-lost --rr-conflict=violently --rr-conflict=retry-connect --rr-conflict=auto-discard --ping-timeout= --data-integrity-alg= --tcp-cork --tcp-cork=no --on-congestion=block --on-congestion=pull-ahead --on-congestion=disconnect --congestion-fill= --congestion-extents= --csums-alg= --csums-after-crash-only --csums-after-crash-only=no --verify-alg= --use-rle --use-rle=no --socket-check-timeout= --fencing=dont-care --fencing=resource-only --fencing=resource-and-stonith --max-buffers= --allow-remote-read --allow-remote-read=no --tls --tls=no --tls-keyring= --tls-privkey= --tls-certificate= --rdma-ctrl-rcvbuf-size= --rdma-ctrl-sndbuf-size=" ;;
        del-peer) options="--force --force=no" ;;
        new-resource) options="--cpu-mask= --on-no-data-accessible=io-error --on-no-data-accessible=suspend-io --auto-promote --auto-promote=no --peer-ack-window= --peer-ack-delay= --twopc-timeout= --twopc-retry-timeout= --auto-promote-timeout= --max-io-depth= --quorum=off --quorum=majority --quorum=all --on-no-quorum=io-error --on-no-quorum=suspend-io --quorum-minimum-redundancy=off --quorum-minimum-redundancy=majority --quorum-minimum-redundancy=all --on-suspended-primary-outdated=disconnect --on-suspended-primary-outdated=force-secondary --drbd8-api-compatibility --drbd8-api-compatibility=no" ;;
        suspend-io) options="--bdev-freeze --bdev-freeze=no" ;;
        set-gi) options="--force" ;;
        new-current-uuid) options="--clear-bitmap --clear-bitmap=no --force-resync --force-resync=no" ;;
        new-minor) options="--max-bio-size= --block-size= --discard-granularity=" ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace
    # Readline replaces only what stands behind a '=' or ':'.
    case $cur in
        *[=:]*) COMPREPLY=("${COMPREPLY[@]#"${cur%[=:]*}"[=:]}") ;;
    esac
}
complete -F _drbdadm drbdadm

_drbdsetup() {
    local cur=${COMP_LINE:0:COMP_POINT} command= word options=
    cur=${cur##* }
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case " primary secondary attach disk-options detach connect new-peer del-peer new-path del-path net-options disconnect resize resource-options peer-device-options new-current-uuid invalidate invalidate-remote pause-sync resume-sync suspend-io resume-io outdate verify down role peer-role cstate dstate show-gi get-gi show status check-resize events2 wait-sync-volume wait-sync-connection wait-sync-resource wait-connect-volume wait-connect-connection wait-connect-resource new-resource new-minor del-minor del-resource forget-peer rename-resource udev why " in
            *" $word "*) command=$word; break ;;
        esac
    done
    if [ -z "$command" ]; then
        options="primary secondary attach disk-options detach connect new-peer del-peer new-path del-path net-options disconnect resize resource-options peer-device-options new-current-uuid invalidate invalidate-remote pause-sync resume-sync suspend-io resume-io outdate verify down role peer-role cstate dstate show-gi get-gi show status check-resize events2 wait-sync-volume wait-sync-connection wait-sync-resource wait-connect-volume wait-connect-connection wait-connect-resource new-resource new-minor del-minor del-resource forget-peer rename-resource udev why "
    elif [[ $cur != -* ]]; then
        options=$( (drbdsetup show | sed -n 's/^resource "\{0,1\}\([^" ]*\).*/\1/p'; echo all) 2>/dev/null)
    fi
    [[ $cur != -* ]] || case $command in
        primary) options="--force --force=no" ;;
        secondary) options="--force --force=no" ;;
        attach) options="--size= --on-io-error=pass_on --on-io-error=call-local-io-error --on-io-error=detach --disk-barrier --disk-barrier=no --disk-flushes --disk-flushes=no --disk-drain --disk-drain=no --md-flushes --md-flushes=no --resync-after= --al-extents= --al-updates --al-updates=no --discard-zeroes-if-aligned --discard-zeroes-if-aligned=no --disable-write-same --disable-write-same=no --disk-timeout= --read-balancing=prefer-local --read-balancing=prefer-remote --read-balancing=round-robin --read-balancing=least-pending --read-balancing=when-congested-remote --read-balancing=32K-striping --read-balancing=64K-striping --read-balancing=128K-striping --read-balancing=256K-striping --read-balancing=512K-striping --read-balancing=1M-striping --rs-discard-granularity= --bitmap --bitmap=no" ;;
        disk-options) options="--on-io-error=pass_on --on-io-error=call-local-io-error --on-io-error=detach --disk-barrier --disk-barrier=no --disk-flushes --disk-flushes=no --disk-drain --disk-drain=no --md-flushes --md-flushes=no --resync-after= --al-extents= --al-updates --al-updates=no --discard-zeroes-if-aligned --discard-zeroes-if-aligned=no --disable-write-same --disable-write-same=no --disk-timeout= --read-balancing=prefer-local --read-balancing=prefer-remote --read-balancing=round-robin --read-balancing=least-pending --read-balancing=when-congested-remote --read-balancing=32K-striping --read-balancing=64K-striping --read-balancing=128K-striping --read-balancing=256K-striping --read-balancing=512K-striping --read-balancing=1M-striping --rs-discard-granularity= --bitmap --bitmap=no --set-defaults" ;;
        detach) options="--force --force=no --diskless --diskless=no" ;;
        connect) options="--tentative --tentative=no --discard-my-data --discard-my-data=no" ;;
        new-peer) options="--transport= --load-balance-paths --load-balance-paths=no --protocol=A --protocol=B --protocol=C --timeout= --max-epoch-size= --connect-int= --ping-int= --sndbuf-size= --rcvbuf-size= --ko-count= --allow-two-primaries --allow-two-primaries=no --cram-hmac-alg= --shared-secret= --after-sb-0pri=disconnect --after-sb-0pri=discard-younger-primary --after-sb-0pri=discard-older-primary --after-sb-0pri=discard-zero-changes --after-sb-0pri=discard-least-changes --after-sb-0pri=discard-local --after-sb-0pri=discard-remote --after-sb-1pri=disconnect --after-sb-1pri=consensus --after-sb-1pri=discard-secondary --after-sb-1pri=call-pri-lost-after-sb --after-sb-1pri=violently-as0p --after-sb-2pri=disconnect --after-sb-2pri=call-pri-lost-after-sb --after-sb-2pri=violently-as0p --always-asbp --always-asbp=no --rr-conflict=disconnect --rr-conflict=call-pri-lost --rr-conflict=violently --rr-conflict=retry-connect --rr-conflict=auto-discard --ping-timeout= --data-integrity-alg= --tcp-cork --tcp-cork=no --on-congestion=block --on-congestion=pull-ahead --on-congestion=disconnect --congestion-fill= --congestion-extents= --csums-alg= --csums-after-crash-only --csums-after-crash-only=no --verify-alg= --use-rle --use-rle=no --socket-check-timeout= --fencing=dont-care --fencing=resource-only --fencing=resource-and-stonith --max-buffers= --allow-remote-read --allow-remote-read=no --tls --tls=no --tls-keyring= --tls-privkey= --tls-certificate= --rdma-ctrl-rcvbuf-size= --rdma-ctrl-sndbuf-size=" ;;
        del-peer) options="--force --force=no" ;;
        net-options) options="--protocol=A --protocol=B --protocol=C --timeout= --max-epoch-size= --connect-int= --ping-int= --sndbuf-size= --rcvbuf-size= --ko-count= --allow-two-primaries --allow-two-primaries=no --cram-hmac-alg= --shared-secret= --after-sb-0pri=disconnect --after-sb-0pri=discard-younger-primary --after-sb-0pri=discard-older-primary --after-sb-0pri=discard-zero-changes --after-sb-0pri=discard-least-changes --after-sb-0pri=discard-local --after-sb-0pri=discard-remote --after-sb-1pri=disconnect --after-sb-1pri=consensus --after-sb-1pri=discard-secondary --after-sb-1pri=call-pri-lost-after-sb --after-sb-1pri=violently-as0p --after-sb-2pri=disconnect --after-sb-2pri=call-pri-lost-after-sb --after-sb-2pri=violently-as0p --always-asbp --always-asbp=no --rr-conflict=disconnect --rr-conflict=call-pri-lost --rr-conflict=violently --rr-conflict=retry-connect --rr-conflict=auto-discard --ping-timeout= --data-integrity-alg= --tcp-cork --tcp-cork=no --on-congestion=block --on-congestion=pull-ahead --on-congestion=disconnect --congestion-fill= --congestion-extents= --csums-alg= --csums-after-crash-only --csums-after-crash-only=no --verify-alg= --use-rle --use-rle=no --socket-check-timeout= --fencing=dont-care --fencing=resource-only --fencing=resource-and-stonith --max-buffers= --allow-remote-read --allow-remote-read=no --tls --tls=no --tls-keyring= --tls-privkey= --tls-certificate= --rdma-ctrl-rcvbuf-size= --rdma-ctrl-sndbuf-size= --set-defaults" ;;
        disconnect) options="--force --force=no" ;;
        resize) options="--size= --assume-peer-has-space --assume-peer-has-space=no --assume-clean --assume-clean=no --al-stripes= --al-stripe-size-kB=" ;;
        resource-options) options="--cpu-mask= --on-no-data-accessible=io-error --on-no-data-accessible=suspend-io --auto-promote --auto-promote=no --peer-ack-window= --peer-ack-delay= --twopc-timeout= --twopc-retry-timeout= --auto-promote-timeout= --max-io-depth= --quorum=off --quorum=majority --quorum=all --on-no-quorum=io-error --on-no-quorum=suspend-io --quorum-minimum-redundancy=off --quorum-minimum-redundancy=majority --quorum-minimum-redundancy=all --on-suspended-primary-outdated=disconnect --on-suspended-primary-outdated=force-secondary --drbd8-api-compatibility --drbd8-api-compatibility=no --set-defaults" ;;
        peer-device-options) options="--resync-rate= --c-plan-ahead= --c-delay-target= --c-fill-target= --c-max-rate= --c-min-rate= --bitmap --bitmap=no --resync-without-replication --resync-without-replication=no --peer-tiebreaker --peer-tiebreaker=no --set-defaults" ;;
        new-current-uuid) options="--clear-bitmap --clear-bitmap=no --force-resync --force-resync=no" ;;
        invalidate) options="--sync-from-peer-node-id= --reset-bitmap --reset-bitmap=no" ;;
        invalidate-remote) options="--reset-bitmap --reset-bitmap=no" ;;
        suspend-io) options="--bdev-freeze --bdev-freeze=no" ;;
        verify) options="--start= --stop=" ;;
        wait-sync-volume) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        wait-sync-connection) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        wait-sync-resource) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        wait-connect-volume) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        wait-connect-connection) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        wait-connect-resource) options="--wfc-timeout= --degr-wfc-timeout= --outdated-wfc-timeout= --wait-after-sb --wait-after-sb=no" ;;
        new-resource) options="--cpu-mask= --on-no-data-accessible=io-error --on-no-data-accessible=suspend-io --auto-promote --auto-promote=no --peer-ack-window= --peer-ack-delay= --twopc-timeout= --twopc-retry-timeout= --auto-promote-timeout= --max-io-depth= --quorum=off --quorum=majority --quorum=all --on-no-quorum=io-error --on-no-quorum=suspend-io --quorum-minimum-redundancy=off --quorum-minimum-redundancy=majority --quorum-minimum-redundancy=all --on-suspended-primary-outdated=disconnect --on-suspended-primary-outdated=force-secondary --drbd8-api-compatibility --drbd8-api-compatibility=no" ;;
        new-minor) options="--max-bio-size= --block-size= --discard-granularity=" ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace
    # Readline replaces only what stands behind a '=' or ':'.
    case $cur in
        *[=:]*) COMPREPLY=("${COMPREPLY[@]#"${cur%[=:]*}"[=:]}") ;;
    esac
}
complete -F _drbdsetup drbdsetup
