"""Sign-in by identity providers: flows bound to a browser, what providers are asked, what is believed of them."""
