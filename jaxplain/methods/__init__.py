"""The methods, a file a family; each stands on the engine, none on another's insides."""
