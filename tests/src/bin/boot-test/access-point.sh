# An access point in the guest: the second of two radios that the kernel plays, in a network of its own, so that what goes
# between it and the board goes over the air. Arguments: the passphrase, hostapd's key_mgmt, its ieee80211w.
set -e
dir=/run/access-point
if [ ! -d $dir ]; then
  mkdir $dir
  tar -xf /dev/vdb -C $dir
  for module in /lib/modules/*/kernel/net/rfkill/rfkill.ko /lib/modules/*/kernel/net/wireless/cfg80211.ko \
    $dir/crypto/*.ko $dir/lib/crypto/libarc4.ko $dir/net/mac80211/mac80211.ko; do
    insmod $module
  done
  insmod $dir/drivers/net/wireless/mac80211_hwsim.ko radios=2
  unshare -n sh -c 'echo $$ >/run/access-point/pid; exec sleep 100000' >/dev/null 2>&1 </dev/null &
  while [ ! -s $dir/pid ]; do sleep 0.1; done
  $dir/sbin/iw phy "$(cat /sys/class/net/wlan1/phy80211/name)" set netns "$(cat $dir/pid)"
  inside="nsenter -t $(cat $dir/pid) -n"
  $inside ip link set lo up
  $inside ip address add 10.77.0.1/24 dev wlan1
  $inside ip link set wlan1 up
  mkdir $dir/www
  echo over the air >$dir/www/index.html
  $inside httpd -p 10.77.0.1:80 -h $dir/www
  touch $dir/leases
  printf 'interface wlan1\nstart 10.77.0.20\nend 10.77.0.20\nlease_file %s\nopt subnet 255.255.255.0\nopt router 10.77.0.1\nopt lease 600\n' \
    $dir/leases >$dir/udhcpd.conf
  $inside udhcpd -f -I 10.77.0.1 $dir/udhcpd.conf >/dev/null 2>&1 </dev/null &
fi
if [ -e $dir/hostapd.pid ]; then
  kill "$(cat $dir/hostapd.pid)"
  while [ -e $dir/hostapd.pid ]; do sleep 0.1; done
fi
printf 'interface=wlan1\ndriver=nl80211\nssid=test net\nhw_mode=g\nchannel=1\nwpa=2\nrsn_pairwise=CCMP\nwpa_passphrase=%s\nwpa_key_mgmt=%s\nieee80211w=%s\nwpa_group_rekey=10\n' \
  "$1" "$2" "$3" >$dir/hostapd.conf
nsenter -t "$(cat $dir/pid)" -n $dir/usr/sbin/hostapd -B -P $dir/hostapd.pid $dir/hostapd.conf
