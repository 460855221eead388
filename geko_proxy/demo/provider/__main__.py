"""`python -m geko_proxy.demo.provider --port 0`"""

from geko_proxy.demo.provider.server import main

main()
