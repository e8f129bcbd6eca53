// Command plugin is a secrets engine that knows one word: what the tests declare as a plugin of OpenBao.
package main

import (
	"context"
	"os"

	"github.com/openbao/openbao/sdk/v2/framework"
	"github.com/openbao/openbao/sdk/v2/logical"
	"github.com/openbao/openbao/sdk/v2/plugin"
)

// version is what the engine says of itself. OpenBao has no leader with a plugin that is declared as another one.
const version = "v1.0.0"

// answer tells what the engine was started with.
func answer(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]any{
		"word": os.Getenv("WORD"), "args": os.Args[1:], "command": os.Args[0], "pid": os.Getpid(),
	}}, nil
}

func engine(ctx context.Context, config *logical.BackendConfig) (logical.Backend, error) {
	backend := &framework.Backend{
		Help:           "Answers what it was started with.",
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		Paths: []*framework.Path{{
			Pattern:    "word",
			Operations: map[logical.Operation]framework.OperationHandler{logical.ReadOperation: &framework.PathOperation{Callback: answer}},
		}},
	}
	if err := backend.Setup(ctx, config); err != nil {
		return nil, err
	}
	return backend, nil
}

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: engine}); err != nil {
		os.Exit(1)
	}
}
