"""The screens above the main one: the zap form, help, a signal, finding."""
