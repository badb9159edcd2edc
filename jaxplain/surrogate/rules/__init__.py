"""The mathematics of an equation, a file a subject; `jaxplain.rules` is its public face."""
