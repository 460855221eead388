"""`python -m geko_proxy.demo.librechat --port 0 --jwt-secret … --jwt-refresh-secret …`"""

from geko_proxy.demo.librechat.server import main

main()
