-- capulet.example of compose.yaml. The block is what `fedgate attach prosody` prints.
daemonize = false
pidfile = "/run/prosody/prosody.pid"
admin_socket = "/run/prosody/prosody.sock"
data_path = "/var/lib/prosody"
log = { info = "*console" }
http_ports = { }
https_ports = { }
use_ipv6 = false
certificates = "/certificates"
authentication = "internal_hashed"
s2s_secure_auth = true
modules_enabled = {
	"disco", "roster", "saslauth", "tls", "blocklist", "bookmarks", "carbons", "dialback", "limits",
	"pep", "private", "smacks", "vcard4", "vcard_legacy", "csi_simple", "ping", "time", "uptime",
	"version", "admin_adhoc", "admin_shell", "posix",
}

unbound = { resolvconf = false; forward = { "172.30.0.10@5053" } }
s2s_ssl = { cafile = "/var/lib/fedgate/ca.pem" }
smacks_s2s_resend = true
network_settings = { nagle = false }
limits = { c2s = { rate = "10kb/s" }; s2sin = { rate = "100mb/s" } }

VirtualHost "capulet.example"
	ssl = { certificate = "/certificates/capulet.example.pem"; key = "/certificates/capulet.example.key" }
Component "conference.capulet.example" "muc"
	ssl = { certificate = "/certificates/capulet.example.pem"; key = "/certificates/capulet.example.key" }
